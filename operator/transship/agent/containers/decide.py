"""Which step a container that this agent owns needs next.

Pure, and decided from what this pass observed alone. A container is supervised only while its
record is Running or Stopped and no role has disowned it: during a handover its processes freeze and
disappear, and that is no exit.
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

# the kubelet's numbers, which users know from Pods
INITIAL_BACK_OFF_SECONDS = 10.0
LONGEST_BACK_OFF_SECONDS = 300.0
BACK_OFF_RESET_SECONDS = 600.0

LOST_EXIT_CODE = -1
"""Of an instance whose exit status nobody has read."""


@dataclass(frozen=True)
class ObservedContainer:
    """The state of a container's instance, from the kernel and from the exit files."""

    run: RunState
    pid: int | None = None
    exit_code: int | None = None
    exited_at: datetime | None = None
    out_of_memory: bool = False
    awaits_memory: bool = False  # after post-copy: some pages are still at the source

    @property
    def alive(self) -> bool:
        return self.run in {RunState.RUNNING, RunState.FROZEN}


@dataclass(frozen=True)
class Situation:
    """Everything that one pass decides from. `boot` is the id of the present boot."""

    record: Record
    observed: ObservedContainer
    boot: str
    disowned: bool = False
    deleting: bool = False
    unhealthy: bool = False
    fetched: bool = False  # image, volumes and bundle are ready
    waiting_seconds: float = 0.0  # of the back-off


class Step(Enum):
    """What a supervisor does in one pass."""

    NOTHING = auto()
    AWAIT_ORDER = auto()
    WAIT = auto()  # until the back-off is over
    FETCH = auto()  # takes minutes
    START = auto()
    STOP = auto()  # takes up to the grace period
    FREEZE = auto()
    THAW = auto()
    RECORD_EXIT = auto()  # write the exit, and whether another instance follows
    DELETE = auto()


def next_step(situation: Situation) -> Step:
    """The one step to take now; the next pass observes the container again."""
    if situation.disowned or situation.record.state not in OWNED:
        return Step.NOTHING
    if situation.deleting:
        return Step.STOP if situation.observed.alive else Step.DELETE
    if situation.record.order.state is DesiredState.STOPPED:
        return _towards_stopped(situation)
    if situation.observed.alive:
        return _while_alive(situation)
    return _towards_running(situation)


def _towards_stopped(situation: Situation) -> Step:
    if situation.observed.alive:
        return Step.STOP
    stopped = situation.record.state is RecordState.STOPPED
    absent = situation.observed.run is RunState.ABSENT
    return Step.NOTHING if stopped and absent else Step.RECORD_EXIT


def _while_alive(situation: Situation) -> Step:
    wanted_frozen = situation.record.order.state is DesiredState.FROZEN
    is_frozen = situation.observed.run is RunState.FROZEN
    if is_frozen and not wanted_frozen:
        return Step.THAW
    if wanted_frozen and not is_frozen:
        return Step.FREEZE
    return Step.STOP if situation.unhealthy and not is_frozen else Step.NOTHING


def _towards_running(situation: Situation) -> Step:
    if situation.observed.run is not RunState.ABSENT or situation.record.started_boot:
        return Step.RECORD_EXIT
    if situation.record.state is RecordState.STOPPED:
        return Step.NOTHING  # it has ended, and its restart policy wants no other instance
    if situation.record.ordered_boot != situation.boot:
        # after a reboot the node may have been fenced, and the container may run elsewhere
        return Step.AWAIT_ORDER
    if situation.waiting_seconds > 0:
        return Step.WAIT
    return Step.START if situation.fetched else Step.FETCH


def exit_of(situation: Situation, *, at: datetime) -> LastExit | None:
    """How the instance ended; None if there was no instance."""
    observed, record = situation.observed, situation.record
    if observed.run is RunState.EXITED and observed.exit_code is not None:
        reason = (
            "OOMKilled"
            if observed.out_of_memory
            else ("Error" if observed.exit_code else "Completed")
        )
        return LastExit(exit_code=observed.exit_code, time=observed.exited_at or at, reason=reason)
    if record.started_boot and record.started_boot != situation.boot:
        return LastExit(exit_code=LOST_EXIT_CODE, time=at, reason="NodeRestarted")
    if record.started_boot:
        return LastExit(exit_code=LOST_EXIT_CODE, time=at, reason="Vanished")
    return None


def starts_again(situation: Situation, last_exit: LastExit) -> bool:
    """Whether the restart policy wants another instance after this exit."""
    if situation.deleting or situation.record.order.state is DesiredState.STOPPED:
        return False
    match situation.record.order.container.restart_policy:
        case RestartPolicy.ALWAYS:
            return True
        case RestartPolicy.ON_FAILURE:
            return last_exit.exit_code != 0
        case RestartPolicy.NEVER:
            return False


def ran_seconds(record: Record, until: datetime) -> float:
    """How long the record's instance had run at this time."""
    return 0.0 if record.start_time is None else (until - record.start_time).total_seconds()


def describe_exit(last: LastExit | None) -> str:
    """A message about the last exit, for a container that waits for its next start."""
    if last is None:
        return "waiting before the next start"
    code = "an unknown status" if last.exit_code == LOST_EXIT_CODE else f"status {last.exit_code}"
    return f"the container ended with {code} ({last.reason}); waiting before the next start"


def lifecycle_of(record: Record, back_off: BackOff, *, at: float) -> Lifecycle:
    """What the target must know of a container, from the source's record at the freeze."""
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
    """The kubelet's back-off: the first restart is immediate, then 10 s, doubled up to 5 minutes.

    Times are seconds of the monotonic clock.
    """

    next_seconds: float = 0.0
    until: float = 0.0

    @classmethod
    def carried_on(cls, lifecycle: Lifecycle, *, at: float) -> BackOff:
        """The back-off of a container that came from another node."""
        waits = lifecycle.waiting_seconds
        return cls(next_seconds=lifecycle.back_off_seconds, until=at + waits if waits else 0.0)

    def after_end(self, *, at: float, ran_seconds: float) -> BackOff:
        """After an instance ended, or could not be started (it ran for 0 seconds)."""
        delay = 0.0 if ran_seconds >= BACK_OFF_RESET_SECONDS else self.next_seconds
        longer = min(delay * 2, LONGEST_BACK_OFF_SECONDS) if delay else INITIAL_BACK_OFF_SECONDS
        return BackOff(next_seconds=longer, until=at + delay)

    def after_failure(self, *, at: float) -> BackOff:
        """After a step before the start failed (image, network): the first retry waits too."""
        delay = self.next_seconds or INITIAL_BACK_OFF_SECONDS
        return BackOff(next_seconds=min(delay * 2, LONGEST_BACK_OFF_SECONDS), until=at + delay)

    def waiting_seconds(self, *, at: float) -> float:
        return max(0.0, self.until - at)
