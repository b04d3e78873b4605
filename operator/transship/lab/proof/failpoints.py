"""Stopping a lab's agent at a named place (see common.failpoints), and letting it go again."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from transship.common.errors import DeadlineExceeded, NotFound
from transship.common.failpoints import REACHED
from transship.lab.nodes import nodes
from transship.lab.services import FAILPOINTS

POLL_SECONDS = 0.002


def arm(state_dir: Path, node: str, place: str) -> None:
    """The node's agent will stop there, once."""
    folder = _folder(state_dir, node)
    folder.mkdir(exist_ok=True)
    (folder / place).touch()


def await_reached(state_dir: Path, node: str, place: str, *, timeout_seconds: float) -> None:
    reached = _folder(state_dir, node) / f"{place}{REACHED}"
    deadline = time.monotonic() + timeout_seconds
    while not reached.exists():
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"waiting for {node} at {place}: it did not come by")
        time.sleep(POLL_SECONDS)


def disarm(state_dir: Path, node: str) -> None:
    """Let the agent go, wherever it stands, and have it stop nowhere any more."""
    with suppress(OSError, NotFound):  # a node that lost its power has forgotten it
        for path in _folder(state_dir, node).iterdir():
            path.unlink(missing_ok=True)


def _folder(state_dir: Path, node: str) -> Path:
    return Path(f"/proc/{nodes.node_pid(state_dir, node)}/root{FAILPOINTS}")
