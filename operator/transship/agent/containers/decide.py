"""What to do next for one container that this agent owns.

Pure, and from what is observed in this pass alone. A container is looked after only while its
record is Running or Stopped and nobody has disowned it; in a handover its processes stop and vanish
for reasons that are no exits.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto

from transship.agent.journal.record import OWNED, Record
from transship.agentapi.migrations import Lifecycle
from transship.agentapi.states import RecordState, RunState
from transship.api.container import RestartPolicy
from transship.api.placement import DesiredState, LastExit

INITIAL_BACK_OFF_SECONDS = 10.0  # the kubelet's numbers, as users know them from Pods
LONGEST_BACK_OFF_SECONDS = 300.0
FORGIVEN_AFTER_SECONDS = 600.0

LOST_EXIT_CODE = -1  # nobody saw the container end


@dataclass(frozen=True)
class ObservedContainer:
    """What the kernel and the exit files say of a container."""

    run: RunState
    pid: int | None = None
    exit_code: int | None = None
    exited_at: datetime | None = None
    out_of_memory: bool = False
    awaits_memory: bool = False  # it was moved here, and has not got all of its pages yet

    @property
    def alive(self) -> bool:
        return self.run in {RunState.RUNNING, RunState.FROZEN}


@dataclass(frozen=True)
class Situation:
    """Everything that a pass decides from."""

    record: Record
    observed: ObservedContainer
    boot: str
    disowned: bool = False
    deleting: bool = False
    unhealthy: bool = False
    fetched: bool = False  # image, volumes and bundle are there
    waiting_seconds: float = 0.0  # of the back-off


class Step(Enum):
    NOTHING = auto()
    AWAIT_ORDER = auto()
    WAIT = auto()  # until the back-off is over
    FETCH = auto()  # takes minutes
    START = auto()
    STOP = auto()  # takes up to the grace period
    FREEZE = auto()
    THAW = auto()
    RECORD_EXIT = auto()  # write down how it ended, and whether another instance follows
    DELETE = auto()


def next_step(now: Situation) -> Step:
    """Choose the one step to take; after it the situation is observed anew."""
    if now.disowned or now.record.state not in OWNED:
        return Step.NOTHING
    if now.deleting:
        return Step.STOP if now.observed.alive else Step.DELETE
    if now.record.order.state is DesiredState.STOPPED:
        return _towards_stopped(now)
    if now.observed.alive:
        return _while_alive(now)
    return _towards_running(now)


def _towards_stopped(now: Situation) -> Step:
    if now.observed.alive:
        return Step.STOP
    noted = now.record.state is RecordState.STOPPED and now.observed.run is RunState.ABSENT
    return Step.NOTHING if noted else Step.RECORD_EXIT


def _while_alive(now: Situation) -> Step:
    wanted_frozen = now.record.order.state is DesiredState.FROZEN
    is_frozen = now.observed.run is RunState.FROZEN
    if is_frozen and not wanted_frozen:
        return Step.THAW
    if wanted_frozen and not is_frozen:
        return Step.FREEZE
    return Step.STOP if now.unhealthy and not is_frozen else Step.NOTHING


def _towards_running(now: Situation) -> Step:
    if now.observed.run is not RunState.ABSENT or now.record.started_boot:
        return Step.RECORD_EXIT
    if now.record.state is RecordState.STOPPED:
        return Step.NOTHING  # it has ended, and its restart policy wants no other
    if now.record.ordered_boot != now.boot:
        return Step.AWAIT_ORDER  # the node was away: it may have been fenced, with a successor
    if now.waiting_seconds > 0:
        return Step.WAIT
    return Step.START if now.fetched else Step.FETCH


def exit_of(now: Situation, *, at: datetime) -> LastExit | None:
    """How the instance ended; None where there was none."""
    observed, record = now.observed, now.record
    if observed.run is RunState.EXITED and observed.exit_code is not None:
        reason = (
            "OOMKilled"
            if observed.out_of_memory
            else ("Error" if observed.exit_code else "Completed")
        )
        return LastExit(exit_code=observed.exit_code, time=observed.exited_at or at, reason=reason)
    if record.started_boot and record.started_boot != now.boot:
        return LastExit(exit_code=LOST_EXIT_CODE, time=at, reason="NodeRestarted")
    if record.started_boot:
        return LastExit(exit_code=LOST_EXIT_CODE, time=at, reason="Vanished")
    return None


def starts_again(now: Situation, last_exit: LastExit) -> bool:
    """Whether the restart policy wants another instance after this end."""
    if now.deleting or now.record.order.state is DesiredState.STOPPED:
        return False
    match now.record.order.container.restart_policy:
        case RestartPolicy.ALWAYS:
            return True
        case RestartPolicy.ON_FAILURE:
            return last_exit.exit_code != 0
        case RestartPolicy.NEVER:
            return False


def ran_seconds(record: Record, until: datetime) -> float:
    """How long the instance that has ended then had run."""
    return 0.0 if record.start_time is None else (until - record.start_time).total_seconds()


def describe_exit(last: LastExit | None) -> str:
    """The end of a container in words, while the next start waits."""
    if last is None:
        return "waiting before the next start"
    code = "an unknown status" if last.exit_code == LOST_EXIT_CODE else f"status {last.exit_code}"
    return f"the container ended with {code} ({last.reason}); waiting before the next start"


def lifecycle_of(record: Record, back_off: BackOff, *, at: float) -> Lifecycle:
    """What a container's next node has to know. record: the source's, frozen."""
    wanted = record.order.state is not DesiredState.STOPPED
    return Lifecycle(
        completed=wanted and record.before is RecordState.STOPPED,
        start_time=record.start_time,
        restarts=record.restarts,
        last_exit=record.last_exit,
        probes=record.probes,
        back_off_seconds=back_off.next_seconds,
        waiting_seconds=back_off.waiting_seconds(at=at),
    )


@dataclass(frozen=True)
class BackOff:
    """The kubelet's: the first restart is immediate, then 10 s doubling to 5 minutes."""

    next_seconds: float = 0.0
    until: float = 0.0  # of the monotonic clock

    @classmethod
    def carried_on(cls, lifecycle: Lifecycle, *, at: float) -> BackOff:
        """Of a container that has come from another node."""
        waits = lifecycle.waiting_seconds
        return cls(next_seconds=lifecycle.back_off_seconds, until=at + waits if waits else 0.0)

    def after_end(self, *, at: float, ran_seconds: float) -> BackOff:
        """An instance ended, or could not be started (it ran for 0 seconds)."""
        delay = 0.0 if ran_seconds >= FORGIVEN_AFTER_SECONDS else self.next_seconds
        longer = min(delay * 2, LONGEST_BACK_OFF_SECONDS) if delay else INITIAL_BACK_OFF_SECONDS
        return BackOff(next_seconds=longer, until=at + delay)

    def after_failure(self, *, at: float) -> BackOff:
        """Something that must come first failed (image, network): no immediate second try."""
        delay = self.next_seconds or INITIAL_BACK_OFF_SECONDS
        return BackOff(next_seconds=min(delay * 2, LONGEST_BACK_OFF_SECONDS), until=at + delay)

    def waiting_seconds(self, *, at: float) -> float:
        return max(0.0, self.until - at)
