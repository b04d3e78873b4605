"""What a record obliges its agent to: after a restart, on a verdict, when it is told to give up.

Pure, as records is, and run by the model in tests/model as it is run here: what both roles decide
beyond the next record stands in this file.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import assert_never

from transship.agent.journal.transitions import OWNED, Record
from transship.agentapi.migrations import OutgoingOrder, Peer, VerdictNotice
from transship.agentapi.states import RecordState, Verdict
from transship.api.reasons import Reason
from transship.common.errors import Refused

IN_TRANSIT = frozenset({RecordState.INCOMING, RecordState.HELD})


class RecoveryStep(Enum):
    """What is left to do of a migration whose agent has ended."""

    NONE = auto()
    KEEP = auto()  # source, undecided: write Aborted, let the container run on
    FINISH = auto()  # source, released: give go until it is heard, then destroy
    DISCARD = auto()  # target: nothing of it was promised to anybody
    ASK = auto()  # target, held: only the source knows


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


class Answer(Enum):
    """What a target does on a verdict."""

    RUN = auto()
    THROW_AWAY = auto()


def on_verdict(notice: VerdictNotice) -> Answer:
    match notice.verdict:
        case Verdict.RELEASED | Verdict.FENCED:
            return Answer.RUN
        case Verdict.ABORTED:
            return Answer.THROW_AWAY
        case _:
            raise Refused(f"{notice.verdict} is no verdict to act on", reason=Reason.NOT_PERMITTED)


def to_discard(record: Record | None, migration: str) -> bool:
    """Whether there is anything of this arrival, to be thrown away once that is allowed."""
    return record is not None and record.migration == migration and record.state in IN_TRANSIT


def require_unheld(record: Record | None, migration: str) -> None:
    """An operator's abort does not end what the source may have released."""
    if record is None or record.migration != migration or record.state is not RecordState.HELD:
        return
    raise Refused(
        f"migration {migration} is held here: only the source's verdict ends that",
        reason=Reason.HELD,
        hint="abort it at the source",
    )


def require_movable(record: Record, order: OutgoingOrder) -> None:
    """Also one that has ended since the move was ordered: whatever the strategy, it moves cold."""
    if record.epoch != order.epoch or record.state not in OWNED:
        raise Refused(
            f"container {order.container} is {record.state} as epoch {record.epoch} here, "
            f"not Running or Stopped as epoch {order.epoch}",
            reason=Reason.WRONG_STATE,
        )


def owes_abort(record: Record | None, migration: str) -> bool:
    """The source's record does not say yet that the container stays."""
    if record is None or record.migration != migration:
        return False
    return record.state in OWNED | {RecordState.FROZEN}


def may_run_on_unwritten(*, release_tried: bool) -> bool:
    """Whether an aborted copy may be thawed although the disk did not take its Aborted.

    Frozen never becomes Released by itself, and a restart turns it into Aborted; but where a
    Released may stand half written on the disk, a restart could find it.
    """
    return not release_tried


def require_memory_sent(record: Record) -> None:
    """The target runs on memory that only the frozen copy has: nothing may end it before."""
    if record.memory_goes_to is not None:
        raise Refused(
            f"container {record.id} has left, and its memory has not followed completely yet",
            reason=Reason.IN_MIGRATION,
        )


def released_to(record: Record) -> Peer:
    """The new owner's side: only its release makes it legal to destroy a frozen copy."""
    if record.state is not RecordState.RELEASED or record.peer is None:
        raise Refused(f"container {record.id} is not released", reason=Reason.WRONG_STATE)
    return record.peer
