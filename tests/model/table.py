"""Every transition of a record, enumerated from the functions that the agents run.

python -m model.table           (in tests/, prints the table of docs/handover.md)
"""

from __future__ import annotations

from collections.abc import Callable

from fakes.orders import BOOT, MIGRATION, incoming_order, order, peer, running_record
from transship.agent.journal import recovery, transitions
from transship.agent.journal.record import LONG_AGO, OWNED, Record
from transship.agent.journal.recovery import RecoveryStep
from transship.agentapi.migrations import VerdictNotice
from transship.agentapi.states import Verdict
from transship.api.placement import LastExit
from transship.common.errors import Refused

BEGIN, END = "<!-- transitions -->\n", "<!-- end of transitions -->\n"


def go(verdict: Verdict, *, epoch: int = 2) -> VerdictNotice:
    return VerdictNotice(migration=MIGRATION, verdict=verdict, epoch=epoch)


def _states() -> dict[str, Record | None]:
    running = running_record()
    leaving = transitions.outgoing(running, migration=MIGRATION, peer=peer())
    frozen = transitions.frozen(leaving, migration=MIGRATION, peer=peer())
    incoming = transitions.incoming(None, incoming_order(), boot=BOOT)
    held = transitions.held(incoming, boot=BOOT)
    return {
        "none": None,
        "Running(1)": running,
        "Stopped(1)": transitions.ended(running, None),
        "Running(1), leaving": leaving,
        "Frozen(1)": frozen,
        "Released(2)": transitions.released(frozen, epoch=2),
        "Running(1), move aborted": transitions.aborted(frozen, migration=MIGRATION),
        "Incoming(2)": incoming,
        "Held(2)": held,
        "Running(2), arrived": transitions.running(held, go(Verdict.RELEASED)),
    }


STATES = _states()


def _known(record: Record | None) -> Record:
    if record is None:
        raise Refused("there is no record", reason="NotFound")
    return record


EVENTS: dict[str, Callable[[Record | None], Record]] = {
    "order(1)": lambda r: transitions.ordered(r, order(epoch=1), boot=BOOT),
    "order(2)": lambda r: transitions.ordered(r, order(epoch=2), boot=BOOT),
    "begin": lambda r: transitions.outgoing(_known(r), migration=MIGRATION, peer=peer()),
    "freeze": lambda r: transitions.frozen(_known(r), migration=MIGRATION, peer=peer()),
    "release(2)": lambda r: transitions.released(_known(r), epoch=2),
    "abort": lambda r: transitions.aborted(_known(r), migration=MIGRATION),
    "arrive(2)": lambda r: transitions.incoming(r, incoming_order(), boot=BOOT),
    "next move arrives(3)": lambda r: transitions.incoming(
        r, incoming_order(epoch=3, migration="next"), boot=BOOT
    ),
    "hold": lambda r: transitions.held(_known(r), boot=BOOT),
    "go on Released(2)": lambda r: transitions.running(_known(r), go(Verdict.RELEASED)),
    "go on Aborted": lambda r: transitions.running(_known(r), go(Verdict.ABORTED, epoch=1)),
    "container ends": lambda r: transitions.ended(_known(r), None),
    "container restarts": lambda r: transitions.restarting(
        _known(r), LastExit(exit_code=1, time=LONG_AGO)
    ),
}


def outcome(state: str, event: str) -> str:
    """The state that follows, "=" for the same record, or (the reason of the refusal)."""
    before = STATES[state]
    try:
        after = EVENTS[event](before)
    except Refused as e:
        return f"({e.reason})"
    return "=" if after == before else named(after)


def named(record: Record) -> str:
    marks = f"{record.state}({record.epoch})"
    if record.migration == MIGRATION and record.peer is not None and record.before is not None:
        marks += ", leaving" if record.state in OWNED else ""
    if MIGRATION in record.aborted:
        marks += ", move aborted"
    if record.arrived_by is not None:
        marks += ", arrived"
    return marks


def recovery_step(state: str) -> str:
    record = STATES[state]
    found = RecoveryStep.NONE if record is None else recovery.after_restart(record)
    return "" if found is RecoveryStep.NONE else found.name.lower()


def render() -> str:
    """One row per event, one column per state."""
    head = ["event", *STATES]
    rows = [[event, *(outcome(state, event) for state in STATES)] for event in EVENTS]
    rows.append(["*verdict said*", *(transitions.verdict(r, MIGRATION) for r in STATES.values())])
    rows.append(["*agent restarts: has to*", *(recovery_step(state) for state in STATES)])
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    print(render(), end="")
