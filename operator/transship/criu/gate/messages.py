"""What the agent and the gate of a restore (criu_gate) say to each other: JSON, one packet each.

The agent answers the gate's connection by its orders; then each speaks as `Said` has it, in that
order. Standard library only, and little of it: the gate is started for each restore.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum

PACKET_BYTES = 1 << 16
SOCKET_VARIABLE = "TRANSSHIP_GATE"
"""Names the socket that the agent waits at."""
CRIU_VARIABLE = "TRANSSHIP_GATE_CRIU"
"""The path of the real criu."""


@dataclass(frozen=True)
class Orders:
    """Paths of one restore; `root` is where the container's root file system will be mounted.

    `cgroup` is the copy's, in v1 that of the freezer. CRIU is moved to `refuge`, beside it; the
    gate to `refuges`, the same in every hierarchy.
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
    refuge: str
    refuges: tuple[str, ...]

    def packet(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def read(cls, packet: bytes) -> Orders:
        """Raises ValueError or TypeError."""
        words = json.loads(packet)
        return cls(**{**words, "refuges": tuple(words["refuges"])})


class Said(StrEnum):
    READY = "ready"  # the gate: CRIU waits for its request
    GO = "go"  # the agent: images, root file system and the server of the pages are there
    HELD = "held"  # the gate: the copy is complete and frozen; `pid` is its process 1
    FAILED = "failed"  # the gate: nothing is left that could run; `message` says why


@dataclass(frozen=True)
class Word:
    """One word of either side."""

    said: Said
    pid: int = 0
    message: str = ""

    def packet(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def read(cls, packet: bytes) -> Word:
        """Raises ValueError, KeyError or TypeError."""
        words = json.loads(packet)
        return cls(**{**words, "said": Said(words["said"])})
