"""How often a migration's loop asks the agents, in seconds."""

from __future__ import annotations

from transship.controller.migration.steps import ObservedMigration

# it competes with the handover for the nodes' processors
HANDOVER_POLL_SECONDS = 0.1
# nothing is frozen, and the next step waits for the operator alone
SHORT_POLL_SECONDS = 0.03
WORK_POLL_SECONDS = 0.05
LONG_WORK_POLL_SECONDS = 0.25
# until then every wait may be most of the whole migration
WORK_AFTER_SECONDS = 1.0
LONG_WORK_AFTER_SECONDS = 5.0
SILENCE_POLL_SECONDS = 0.5


def work_poll(observed: ObservedMigration) -> float:
    if observed.waiting_seconds > LONG_WORK_AFTER_SECONDS:
        return LONG_WORK_POLL_SECONDS
    return (
        WORK_POLL_SECONDS
        if observed.waiting_seconds > WORK_AFTER_SECONDS
        else HANDOVER_POLL_SECONDS
    )
