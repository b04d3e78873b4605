"""What a record requires of its agent after a restart, on a verdict, and on an abort.

Pure, as `transitions` is. The model checker in tests/model runs these functions too, so whatever
the two roles decide beyond the next record must stand in this file.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import assert_never

from transship.agent.journal.record import OWNED, Record
from transship.agentapi.migrations import OutgoingOrder, Peer, VerdictNotice
from transship.agentapi.states import RecordState, Verdict
from transship.api.reasons import Reason
from transship.common.errors import Refused

IN_TRANSIT = frozenset({RecordState.INCOMING, RecordState.HELD})


class RecoveryStep(Enum):
    """How to end a migration whose agent was restarted."""

    NONE = auto()
    KEEP = auto()  # source, undecided: write Aborted, let the container run on
    FINISH = auto()  # source, released: send the verdict until it is confirmed, then destroy
    DISCARD = auto()  # target, incoming: nothing was promised to the source
    ASK = auto()  # target, held: only the source knows the verdict


def after_restart(record: Record) -> RecoveryStep:
    if record.migration is None:
        return RecoveryStep.NONE
    match record.state:
        case RecordState.RUNNING | RecordState.STOPPED | RecordState.FROZEN:
            return RecoveryStep.KEEP
        case RecordState.RELEASED:
            return RecoveryStep.FINISH
        case RecordState.INCOMING:
            return RecoveryStep.DISCARD
        case RecordState.HELD:
            return RecoveryStep.ASK
        case _ as never:
            assert_never(never)


class VerdictAction(Enum):
    """What a target does with its copy on a verdict."""

    RUN = auto()
    DISCARD = auto()


def on_verdict(notice: VerdictNotice) -> VerdictAction:
    """Raises Refused for a verdict that decides nothing."""
    match notice.verdict:
        case Verdict.RELEASED | Verdict.FENCED:
            return VerdictAction.RUN
        case Verdict.ABORTED:
            return VerdictAction.DISCARD
        case _:
            raise Refused(f"{notice.verdict} decides nothing", reason=Reason.NOT_PERMITTED)


def to_discard(record: Record | None, migration: str) -> bool:
    """Whether this node has a copy of this incoming migration that does not run yet."""
    return record is not None and record.migration == migration and record.state in IN_TRANSIT


def require_unheld(record: Record | None, migration: str) -> None:
    """Refuse an operator's abort of a held copy: the source may have released it."""
    if record is None or record.migration != migration or record.state is not RecordState.HELD:
        return
    raise Refused(
        f"the copy of migration {migration} is held: only the source's verdict ends that",
        reason=Reason.HELD,
        hint="abort it at the source",
    )


def require_movable(record: Record, order: OutgoingOrder) -> None:
    """Refuse a container that this node does not own as the epoch of the order.

    An ended container may move: whatever the strategy, it moves cold.
    """
    if record.epoch != order.epoch or record.state not in OWNED:
        raise Refused(
            f"container {order.container} is {record.state} as epoch {record.epoch} here, "
            f"not Running or Stopped as epoch {order.epoch}",
            reason=Reason.WRONG_STATE,
        )


def owes_abort(record: Record | None, migration: str) -> bool:
    """Whether the source has yet to write that this migration is aborted."""
    if record is None or record.migration != migration:
        return False
    return record.state in OWNED | {RecordState.FROZEN}


def may_run_on_unwritten(*, release_tried: bool) -> bool:
    """Whether an aborted copy may be thawed although the disk did not take the aborted record.

    A restart turns Frozen into Aborted. But after a failed write of Released the disk may have
    that record, and a restart would find it.
    """
    return not release_tried


def require_memory_sent(record: Record) -> None:
    """Refuse to end a frozen copy while the target still needs pages that only this copy has."""
    if record.memory_goes_to is not None:
        raise Refused(
            f"container {record.id} has moved, but some of its memory is still here",
            reason=Reason.IN_MIGRATION,
        )


def released_to(record: Record) -> Peer:
    """The peer that owns the container now. Refuses a record that is not Released."""
    if record.state is not RecordState.RELEASED or record.peer is None:
        raise Refused(f"container {record.id} is not released", reason=Reason.WRONG_STATE)
    return record.peer
