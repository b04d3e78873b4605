"""Which record may follow which: the transitions of a container's record.

Pure: each function takes a record and returns the next one, or raises Refused where the state
forbids it. Two rules always hold. A source that wrote Released never runs its copy again. A target
runs its copy only on the source's Released, unless the source's node is fenced.
"""

from __future__ import annotations

from datetime import datetime
from typing import assert_never

from transship.agent.journal.record import OWNED, Record
from transship.agentapi.containers import ContainerOrder, ProbeState
from transship.agentapi.migrations import (
    IncomingOrder,
    Lifecycle,
    MemoryEndpoint,
    Peer,
    VerdictNotice,
)
from transship.agentapi.states import RecordState, Verdict
from transship.api.container import Container
from transship.api.placement import DesiredState, LastExit
from transship.api.reasons import Reason
from transship.common.errors import Refused

# a target asks for the verdict within minutes; each failed attempt is a new migration
ABORTED_MIGRATIONS_KEPT = 32
PERMITTING = frozenset({Verdict.RELEASED, Verdict.FENCED})


def ordered(record: Record | None, order: ContainerOrder, *, boot: str, floor: int = 0) -> Record:
    """The operator orders the container onto this node. floor: see Journal.floor."""
    if record is None:
        _refuse_below_floor(order, floor)
        return Record(
            id=order.id, namespace=order.namespace, name=order.name, epoch=order.epoch,
            state=_state_of(order), order=order, image_digest=order.image_digest, ordered_boot=boot,
            last_exit=order.last_exit,
        )  # fmt: skip
    if order.epoch < record.epoch:
        raise _refused(record, Reason.STALE_EPOCH, f"order for epoch {order.epoch}")
    if record.migration is not None or record.state not in OWNED:
        return _unchanged(record, order)
    return record.but(
        epoch=order.epoch, order=order, state=_reordered_state(record, order), ordered_boot=boot
    )


def pinned(record: Record) -> ContainerOrder:
    """The order with the digest of the image that the container was made from.

    The container's files are a layer over that image, and the image's tag may have moved on.
    """
    digest = record.order.image_digest or record.image_digest
    return record.order.model_copy(update={"image_digest": digest})


def outgoing(record: Record, *, migration: str, peer: Peer) -> Record:
    """The source begins a migration. The container runs on; from now on there is a verdict."""
    _refuse_decided(record, migration)
    if record.migration == migration and record.state in OWNED:
        return record
    _require_idle(record)
    return record.but(migration=migration, peer=peer, before=record.state)


def frozen(record: Record, *, migration: str, peer: Peer) -> Record:
    """The source is about to freeze all tasks. Only the verdict ends this state."""
    _refuse_decided(record, migration)
    if record.state is RecordState.FROZEN and record.migration == migration:
        return record
    begun = outgoing(record, migration=migration, peer=peer)
    return begun.but(state=RecordState.FROZEN)


def released(record: Record, *, epoch: int, memory_goes_to: MemoryEndpoint | None = None) -> Record:
    """The point of no return: this copy never runs again, the target runs as this epoch.

    memory_goes_to: where the pages go that the target does not have yet. See memory_sent.
    """
    if record.state is RecordState.RELEASED and record.epoch == epoch:
        return record
    if record.state is not RecordState.FROZEN:
        raise _refused(record, Reason.WRONG_STATE, f"release to epoch {epoch}")
    if epoch != record.epoch + 1:
        raise _refused(record, Reason.STALE_EPOCH, f"release to epoch {epoch}")
    return record.but(state=RecordState.RELEASED, epoch=epoch, memory_goes_to=memory_goes_to)


def memory_sent(record: Record) -> Record:
    """The target has every page, so the frozen copy may be destroyed."""
    return record.but(memory_goes_to=None)


def aborted(record: Record, *, migration: str) -> Record:
    """The source keeps the container; the target never runs its copy.

    A migration that has not begun here is marked too, since its order may still arrive.
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
    """The target prepares a copy of a container that the source owns."""
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

    lifecycle: as of the freeze at the source; the order that began the migration is older.
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
    """The target owns the container, on the Released of this migration and epoch.

    Fenced permits it too: the source's node is off for good, with whatever ran there.
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
    """Some of this instance's memory will never arrive, so the instance has to end."""
    _require_owned(record)
    return record.but(memory_lost=record.memory_lost or why)


def started(record: Record, *, boot: str, now: datetime) -> Record:
    """A new instance was started."""
    _require_owned(record)
    probes = not_probed(record.order.container)
    return record.but(
        state=RecordState.RUNNING,
        started_boot=boot,
        start_time=now,
        probes=probes,
        refuses_landlock=True,
    )


def not_probed(container: Container) -> ProbeState:
    """The state of a new instance before the first result of a probe."""
    return ProbeState(
        started=container.startup_probe is None, ready=container.readiness_probe is None
    )


def probed(record: Record, probes: ProbeState) -> Record:
    """The results of the present instance's probes have changed."""
    _require_owned(record)
    return record.but(probes=probes)


def ended(record: Record, last_exit: LastExit | None) -> Record:
    """The instance is gone, and neither the order nor the restart policy wants another one.

    A record that is Frozen already stays Frozen, because its migration still has to end.
    """
    _require_owned_or_frozen(record)
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
    """The instance is gone, and the restart policy wants another one. Frozen stays Frozen."""
    _require_owned_or_frozen(record)
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
    """The verdict that the source's record gives on a migration. Unknown permits nothing."""
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
            return Verdict.UNKNOWN  # the record of a target
        case _ as never:
            assert_never(never)


def may_be_deleted(record: Record, *, epoch: int) -> None:
    """Raise Refused unless the operator, which knows this epoch, may delete the container."""
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
    stopped = order.state is DesiredState.STOPPED or order.completed
    return RecordState.STOPPED if stopped else RecordState.RUNNING


def _reordered_state(record: Record, order: ContainerOrder) -> RecordState:
    """A repeated order does not start a container that has ended by itself."""
    was_wanted = record.order.state is not DesiredState.STOPPED
    is_wanted = order.state is not DesiredState.STOPPED
    if is_wanted and not was_wanted:
        return RecordState.RUNNING
    return record.state


def _unchanged(record: Record, order: ContainerOrder) -> Record:
    """Accept a repeated order; refuse a changed one while the container migrates."""
    if record.state in OWNED and order == record.order:
        return record
    raise _refused(record, Reason.IN_MIGRATION, "a new order")


def _require_owned(record: Record) -> None:
    if record.state not in OWNED:
        raise _refused(record, Reason.IN_MIGRATION, "a change")


def _require_owned_or_frozen(record: Record) -> None:
    if record.state is not RecordState.FROZEN:
        _require_owned(record)


def _require_idle(record: Record) -> None:
    _require_owned(record)
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
