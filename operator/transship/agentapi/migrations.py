"""Orders for, reports of and messages inside a migration."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from transship.agentapi.containers import ContainerOrder, ProbeState
from transship.agentapi.message import Id, Message
from transship.agentapi.states import SideState, Verdict
from transship.api.base import MicroTime
from transship.api.migration import BlackoutPart, MemoryTraffic, Prediction, Round, Step
from transship.api.placement import LastExit, MigrationSettings, Strategy

LARGEST_RESTORE_BODY_BYTES = 256 << 20
"""Of CRIU's images, which a restore request brings inside the freeze. Source and target know it."""


class Peer(Message):
    """The other side: its node's name (checked against its certificate) and its addresses."""

    node: str
    address: str  # for streams
    addresses: tuple[str, ...] = ()  # for routes, at least one of each IP family

    @property
    def hops(self) -> tuple[str, ...]:
        """All addresses, also of a peer from a record of before there could be several."""
        return self.addresses or (self.address,)

    endpoint: str  # https://IP:PORT


class IncomingOrder(Message):
    """To the target. order.epoch is the epoch that it will run as (the source's + 1).

    start_time, restarts and last_exit are the container's past, from its placement's status.
    """

    migration: Id
    order: ContainerOrder
    source: Peer
    strategy: Strategy
    start_time: MicroTime | None = None
    restarts: int = 0
    last_exit: LastExit | None = None


class OutgoingOrder(Message):
    """To the source, once the target is prepared. epoch is the source's own."""

    migration: Id
    container: Id
    epoch: int
    target: Peer
    strategy: Strategy
    settings: MigrationSettings = MigrationSettings()


class MigrationReport(Message):
    """The state of one side of a migration. choice: the source's strategy, and why."""

    migration: str
    state: SideState
    verdict: Verdict = Verdict.UNDECIDED
    strategy: Strategy | None = None
    choice: str = ""
    percent: int = 0
    steps: tuple[Step, ...] = ()
    rounds: tuple[Round, ...] = ()
    prediction: Prediction | None = None
    memory: MemoryTraffic | None = None
    blackout_microseconds: int | None = None
    blackout_parts: tuple[BlackoutPart, ...] = ()
    bytes: int | None = None
    reason: str = ""
    message: str = ""
    hint: str = ""
    log_tail: str = ""


class MemoryEndpoint(Message):
    """Where the source's dump sends its pages: CRIU's page server, TLS."""

    address: str
    port: int


class MemoryState(Message):
    """Whether a container that runs on the target still waits for some of its memory."""

    awaited: bool


class MemoryLoss(Message):
    """Why the rest of a container's memory can never come."""

    why: Annotated[str, Field(min_length=1, max_length=1024)]


class Lifecycle(Message):
    """The container's past at the freeze, from the source's record.

    completed: it has ended by itself, and its restart policy starts no other instance.
    """

    completed: bool = False
    start_time: MicroTime | None = None
    restarts: int = 0
    last_exit: LastExit | None = None
    probes: ProbeState | None = None  # of the instance that is moved; None where none is
    back_off_seconds: Annotated[float, Field(ge=0)] = 0.0  # how long the next end has to wait
    waiting_seconds: Annotated[float, Field(ge=0)] = 0.0  # what is left of the present back-off


class RestoreRequest(Message):
    """Sent before the images: what the target must know besides them."""

    cold: bool = False  # no images come: nothing runs at the source
    lifecycle: Lifecycle | None = None  # None: from a source of an older version

    memory_follows: bool = False  # after the resume: not all pages will come before it
    image_bytes: Annotated[int, Field(ge=0)] = 0  # of all images, once they are whole
    refuses_landlock: bool = False  # its seccomp filter; an older source's does not


class RestoreReply(Message):
    """The copy is held. Parts are the target's share of the blackout."""

    parts: tuple[BlackoutPart, ...] = ()


class VerdictNotice(Message):
    """The source's verdict, from itself or relayed by the operator. epoch is the new owner's."""

    migration: str
    verdict: Verdict
    epoch: int


class VerdictReply(Message):
    verdict: Verdict
    epoch: int


class ResumeReply(Message):
    """The copy runs. resume_microseconds: from the notice's arrival to the thaw."""

    state: SideState
    resume_microseconds: int = 0
    parts: tuple[BlackoutPart, ...] = ()
