"""The messages between the agent and the gate of a restore: JSON, one packet each.

The gate connects, the agent replies with a RestoreSetup; after that each side sends Messages, in
the order of MessageKind. Standard library only.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum

PACKET_BYTES = 1 << 16
SOCKET_VARIABLE = "TRANSSHIP_GATE"
"""The environment variable with the path of the agent's socket."""
CRIU_VARIABLE = "TRANSSHIP_GATE_CRIU"
"""The environment variable with the path of the real criu."""


@dataclass(frozen=True)
class RestoreSetup:
    """Where one restore takes place.

    `root` is the mount point of the container's root file system. `cgroup` is the container's, in
    v1 the one of the freezer controller, and `control_file` to `frozen_line` are how to freeze it
    (see linux.freezer). CRIU is moved to `criu_cgroup`, beside it; the gate is moved to
    `gate_cgroups`, the same cgroup in every hierarchy.
    """

    images: str
    work: str
    root: str
    log_level: int
    cgroup: str
    control_file: str
    freeze_word: str
    state_file: str
    frozen_line: str
    criu_cgroup: str
    gate_cgroups: tuple[str, ...]

    def packet(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def parse(cls, packet: bytes) -> RestoreSetup:
        """Raises ValueError, KeyError or TypeError."""
        fields = json.loads(packet)
        return cls(**{**fields, "gate_cgroups": tuple(fields["gate_cgroups"])})


class MessageKind(StrEnum):
    READY = "ready"
    """The gate: CRIU waits for its request."""
    GO = "go"
    """The agent: images, root file system and page server are there."""
    HELD = "held"
    """The gate: the container is restored and frozen; `pid` is its process 1."""
    FAILED = "failed"
    """The gate: no restored task is left; `error` has the cause."""


@dataclass(frozen=True)
class Message:
    """One message of either side."""

    kind: MessageKind
    pid: int = 0
    error: str = ""

    def packet(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def parse(cls, packet: bytes) -> Message:
        """Raises ValueError, KeyError or TypeError."""
        fields = json.loads(packet)
        return cls(**{**fields, "kind": MessageKind(fields["kind"])})
