"""What an agent has promised about its copy of a container, and what may follow which promise.

Pure: each function takes a record and gives the next one, or raises Refused when the present state
forbids it. Two rules hold whatever the caller does: a source that wrote Released never runs its
copy again, and a target runs its copy on the source's Released alone, unless its node is fenced.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal, assert_never

from pydantic import Field

from transship.agentapi.containers import ContainerOrder, ProbeState
from transship.agentapi.message import Message
from transship.agentapi.migrations import (
    IncomingOrder,
    Lifecycle,
    MemoryEndpoint,
    Peer,
    VerdictNotice,
)
from transship.agentapi.states import RecordState, Verdict
from transship.api.base import MicroTime
from transship.api.container import Container
from transship.api.placement import DesiredState, LastExit
from transship.api.reasons import Reason
from transship.common.errors import Refused

ABORTED_MIGRATIONS_KEPT = 32  # a target asks within minutes; each failed attempt is a new migration
PERMITTING = frozenset({Verdict.RELEASED, Verdict.FENCED})
OWNED = frozenset({RecordState.RUNNING, RecordState.STOPPED})
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class Record(Message):
    """One container in the journal. ordered_boot and started_boot are boot ids of this node.

    epoch is the number of the owner that this copy is or may become; in state Released the one of
    the new owner. migration and peer are set from a migration's begin to its end on this side.
    """

    version: Literal[1] = 1
    id: str
    namespace: str
    name: str
    epoch: Annotated[int, Field(ge=1)]
    state: RecordState
    order: ContainerOrder
    migration: str | None = None
    peer: Peer | None = None
    before: RecordState | None = None
    """Source: the state that an abort returns to. Target, held: Stopped where it has completed."""
    memory_goes_to: MemoryEndpoint | None = None  # source, released: who still wants its memory
    arrived_by: str | None = None  # the migration that brought it here: a repeated go is answered
    memory_lost: str = ""  # why, where what that migration still owed it never comes
    aborted: tuple[str, ...] = ()  # migrations whose source was here and stayed here
    image_digest: str | None = None
    start_time: MicroTime | None = None
    restarts: int = 0
    last_exit: LastExit | None = None
    probes: ProbeState | None = None  # of the present instance
    ordered_boot: str = ""  # the boot in which the operator or a migration last wanted it here
    started_boot: str = ""  # the boot in which the present instance was started; empty: none was
    # the present instance's seccomp filter, which it keeps wherever it goes; older agents' did not
    refuses_landlock: bool = False
    written_at: MicroTime = LONG_AGO

    def but(self, **changes: object) -> Record:
        """The same with some fields changed; checked like a new one."""
        return Record.model_validate({**dict(self), **changes})


def ordered(record: Record | None, order: ContainerOrder, *, boot: str, floor: int = 0) -> Record:
    """The operator wants this node to hold the container. floor: see journal.Journal.floor."""
    if record is None:
        _refuse_below_floor(order, floor)
        return Record(
            id=order.id, namespace=order.namespace, name=order.name, epoch=order.epoch,
            state=_state_of(order), order=order, image_digest=order.image_digest, ordered_boot=boot,
        )  # fmt: skip
    if order.epoch < record.epoch:
        raise _refused(record, Reason.STALE_EPOCH, f"order for epoch {order.epoch}")
    if record.migration is not None or record.state not in OWNED:
        return _unchanged(record, order)
    return record.but(
        epoch=order.epoch, order=order, state=_reordered_state(record, order), ordered_boot=boot
    )


def pinned(record: Record) -> ContainerOrder:
    """The order with the very image that the container was made from: its tag may have moved on.

    The container's own files lie over that image's, and over no other's.
    """
    digest = record.order.image_digest or record.image_digest
    return record.order.model_copy(update={"image_digest": digest})


def outgoing(record: Record, *, migration: str, peer: Peer) -> Record:
    """The source begins: the container runs on, but from now on the migration can be decided."""
    _refuse_decided(record, migration)
    if record.migration == migration and record.state in OWNED:
        return record
    _require_idle(record)
    return record.but(migration=migration, peer=peer, before=record.state)


def frozen(record: Record, *, migration: str, peer: Peer) -> Record:
    """The source is about to stop all tasks: from now on only the verdict can end this state."""
    _refuse_decided(record, migration)
    if record.state is RecordState.FROZEN and record.migration == migration:
        return record
    begun = outgoing(record, migration=migration, peer=peer)
    return begun.but(state=RecordState.FROZEN)


def released(record: Record, *, epoch: int, memory_goes_to: MemoryEndpoint | None = None) -> Record:
    """The point of no return: this copy never runs again, the target runs as this epoch.

    With memory_goes_to the target has not got all of its memory yet: see drained.
    """
    if record.state is RecordState.RELEASED and record.epoch == epoch:
        return record
    if record.state is not RecordState.FROZEN:
        raise _refused(record, Reason.WRONG_STATE, f"release to epoch {epoch}")
    if epoch != record.epoch + 1:
        raise _refused(record, Reason.STALE_EPOCH, f"release to epoch {epoch}")
    return record.but(state=RecordState.RELEASED, epoch=epoch, memory_goes_to=memory_goes_to)


def memory_sent(record: Record) -> Record:
    """The target has every page: the frozen copy is of no more use."""
    return record.but(memory_goes_to=None)


def aborted(record: Record, *, migration: str) -> Record:
    """The source keeps the container; the target never gets go.

    Also for a migration that has not begun here: its order may still be under way.
    """
    if migration in record.aborted:
        return record
    if record.state is RecordState.RELEASED and record.migration == migration:
        raise _refused(record, Reason.ALREADY_RELEASED, f"abort of migration {migration}")
    kept = (*record.aborted, migration)[-ABORTED_MIGRATIONS_KEPT:]
    if record.migration != migration:
        return record.but(aborted=kept)
    if record.state not in OWNED | {RecordState.FROZEN}:
        raise _refused(record, Reason.WRONG_STATE, f"abort as a source of {migration}")
    state = record.before or RecordState.RUNNING
    return record.but(state=state, migration=None, peer=None, before=None, aborted=kept)


def incoming(record: Record | None, order: IncomingOrder, *, boot: str, floor: int = 0) -> Record:
    """The target prepares a copy that belongs to somebody else."""
    wanted = order.order
    if record is None:
        _refuse_below_floor(wanted, floor)
    else:
        if record.state is RecordState.INCOMING and record.migration == order.migration:
            return record
        if order.migration in (record.migration, record.arrived_by):
            raise _refused(record, Reason.WRONG_STATE, f"preparing {order.migration} again")
        if record.state is not RecordState.RELEASED:
            raise _refused(record, Reason.ALREADY_HERE, f"migration {order.migration}")
        if wanted.epoch <= record.epoch:
            raise _refused(record, Reason.STALE_EPOCH, f"arrival as epoch {wanted.epoch}")
    return Record(
        id=wanted.id, namespace=wanted.namespace, name=wanted.name, epoch=wanted.epoch,
        state=RecordState.INCOMING, order=wanted, migration=order.migration, peer=order.source,
        image_digest=wanted.image_digest, start_time=order.start_time, restarts=order.restarts,
        last_exit=order.last_exit, ordered_boot=boot,
    )  # fmt: skip


def held(
    record: Record,
    *,
    boot: str,
    lifecycle: Lifecycle | None = None,
    refuses_landlock: bool = False,
) -> Record:
    """The target has restored its copy, which may not run yet.

    lifecycle: what the source says of it at the freeze; the order that began the move is older.
    """
    if record.state is RecordState.HELD:
        return record
    if record.state is not RecordState.INCOMING:
        raise _refused(record, Reason.WRONG_STATE, "a restore")
    here = record.but(state=RecordState.HELD, started_boot=boot, refuses_landlock=refuses_landlock)
    if lifecycle is None:
        return here
    return here.but(
        before=RecordState.STOPPED if lifecycle.completed else None,
        start_time=lifecycle.start_time,
        restarts=lifecycle.restarts,
        last_exit=lifecycle.last_exit,
        probes=lifecycle.probes,
    )


def running(record: Record, notice: VerdictNotice) -> Record:
    """The target owns the container: only on the Released of this migration and epoch.

    Or on Fenced: the source's node is off for good, with whatever ran there.
    """
    if record.state in OWNED and record.arrived_by == notice.migration:
        return record
    if record.state is not RecordState.HELD or record.migration != notice.migration:
        raise _refused(record, Reason.WRONG_STATE, f"go for migration {notice.migration}")
    if notice.verdict not in PERMITTING:
        raise _refused(record, Reason.NOT_PERMITTED, f"running on {notice.verdict}")
    if notice.epoch != record.epoch:
        raise _refused(record, Reason.STALE_EPOCH, f"go for epoch {notice.epoch}")
    return record.but(
        state=record.before or _state_of(record.order), migration=None, peer=None, before=None,
        arrived_by=notice.migration, memory_lost="",
    )  # fmt: skip


def memory_lost(record: Record, why: str) -> Record:
    """What the migration that brought it here still owed it will not come: this instance ends."""
    _require_ours(record)
    return record.but(memory_lost=record.memory_lost or why)


def started(record: Record, *, boot: str, now: datetime) -> Record:
    """A new instance runs."""
    _require_ours(record)
    probes = not_probed(record.order.container)
    return record.but(
        state=RecordState.RUNNING,
        started_boot=boot,
        start_time=now,
        probes=probes,
        refuses_landlock=True,
    )


def not_probed(container: Container) -> ProbeState:
    """What is known of a new instance before its probes have said anything."""
    return ProbeState(
        started=container.startup_probe is None, ready=container.readiness_probe is None
    )


def probed(record: Record, probes: ProbeState) -> Record:
    """The probes of the present instance say something else than before."""
    _require_ours(record)
    return record.but(probes=probes)


def ended(record: Record, last_exit: LastExit | None) -> Record:
    """The instance is gone and no other follows, by the order or the restart policy.

    One that ended just before it was to be frozen is Frozen all the same: an abort is as due.
    """
    _require_undecided(record)
    before = RecordState.STOPPED if record.before is not None else None
    last = last_exit or record.last_exit
    return record.but(
        state=_unless_frozen(record, RecordState.STOPPED),
        started_boot="",
        last_exit=last,
        before=before,
        probes=None,
    )


def restarting(record: Record, last_exit: LastExit) -> Record:
    """The instance is gone, and the restart policy wants another one. Frozen: as for ended."""
    _require_undecided(record)
    return record.but(
        state=_unless_frozen(record, RecordState.RUNNING),
        started_boot="",
        last_exit=last_exit,
        restarts=record.restarts + 1,
        probes=None,
    )


def _unless_frozen(record: Record, state: RecordState) -> RecordState:
    return record.state if record.state is RecordState.FROZEN else state


def verdict(record: Record | None, migration: str) -> Verdict:
    """What this record, as the source's, says of a migration. Unknown is never a permission."""
    if record is None:
        return Verdict.UNKNOWN
    if migration in record.aborted:
        return Verdict.ABORTED
    if record.migration != migration:
        return Verdict.UNKNOWN
    match record.state:
        case RecordState.RELEASED:
            return Verdict.RELEASED
        case RecordState.FROZEN | RecordState.RUNNING | RecordState.STOPPED:
            return Verdict.UNDECIDED
        case RecordState.INCOMING | RecordState.HELD:
            return Verdict.UNKNOWN  # this side is the target: it has no verdict to give
        case _ as never:
            assert_never(never)


def may_be_deleted(record: Record, *, epoch: int) -> None:
    """Raise Refused unless the operator, who knows this epoch, may destroy the copy."""
    if epoch < record.epoch:
        raise _refused(record, Reason.STALE_EPOCH, f"deletion of epoch {epoch}")
    _require_idle(record)


def _refuse_below_floor(order: ContainerOrder, floor: int) -> None:
    if order.epoch < floor:
        raise Refused(
            f"refusing epoch {order.epoch} of container {order.id}: this node gave it away before",
            reason=Reason.STALE_EPOCH,
        )


def _state_of(order: ContainerOrder) -> RecordState:
    stopped = order.state is DesiredState.STOPPED
    return RecordState.STOPPED if stopped else RecordState.RUNNING


def _reordered_state(record: Record, order: ContainerOrder) -> RecordState:
    """A container that has ended by itself is not started by a repetition of its order."""
    was_wanted = record.order.state is not DesiredState.STOPPED
    is_wanted = order.state is not DesiredState.STOPPED
    if is_wanted and not was_wanted:
        return RecordState.RUNNING
    return record.state


def _unchanged(record: Record, order: ContainerOrder) -> Record:
    """A repetition is answered; a change while the container is on its way is refused."""
    if record.state in OWNED and order == record.order:
        return record
    raise _refused(record, Reason.IN_MIGRATION, "a new order")


def _require_ours(record: Record) -> None:
    if record.state not in OWNED:
        raise _refused(record, Reason.IN_MIGRATION, "a change")


def _require_undecided(record: Record) -> None:
    if record.state is not RecordState.FROZEN:
        _require_ours(record)


def _require_idle(record: Record) -> None:
    _require_ours(record)
    if record.migration is not None:
        raise _refused(record, Reason.IN_MIGRATION, "a change")


def _refuse_decided(record: Record, migration: str) -> None:
    if migration in record.aborted:
        raise _refused(record, Reason.ALREADY_ABORTED, f"migration {migration}")
    if record.state is RecordState.RELEASED:
        raise _refused(record, Reason.ALREADY_RELEASED, f"migration {migration}")


def _refused(record: Record, reason: Reason, asked: str) -> Refused:
    state = f"container {record.id} is {record.state} as epoch {record.epoch} here"
    if record.migration is not None:
        state += f", in migration {record.migration}"
    return Refused(f"refusing {asked}: {state}", reason=reason)
