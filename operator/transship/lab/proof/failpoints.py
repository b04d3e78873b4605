"""Makes a lab's agent wait at a failpoint (see common.failpoints), and lets it go on."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from transship.common.errors import DeadlineExceeded, NotFound
from transship.common.failpoints import REACHED
from transship.lab.nodes import namespace_nodes
from transship.lab.services import FAILPOINTS

POLL_SECONDS = 0.002


def arm(state_dir: Path, node: str, place: str) -> None:
    """The node's agent will wait there, once."""
    folder = _folder(state_dir, node)
    folder.mkdir(exist_ok=True)
    (folder / place).touch()


def await_reached(state_dir: Path, node: str, place: str, *, timeout_seconds: float) -> None:
    reached = _folder(state_dir, node) / f"{place}{REACHED}"
    deadline = time.monotonic() + timeout_seconds
    while not reached.exists():
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"waiting for {node} at {place}: it did not get there")
        time.sleep(POLL_SECONDS)


def disarm(state_dir: Path, node: str) -> None:
    """Let the agent go on, and make it wait nowhere any more."""
    # after a power cut the node has no failpoints any more
    with suppress(OSError, NotFound):
        for path in _folder(state_dir, node).iterdir():
            path.unlink(missing_ok=True)


def _folder(state_dir: Path, node: str) -> Path:
    return Path(f"/proc/{namespace_nodes.node_pid(state_dir, node)}/root{FAILPOINTS}")
