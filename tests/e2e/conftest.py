"""One lab for the whole session: a real API server, real agents, real containers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

import pytest
from world import World

from transship.lab import cluster
from transship.lab.control_plane.assets import ensure_assets
from transship.lab.state import LabState, find_state, lab_dir

LAB = os.environ.get("TRANSSHIP_TEST_LAB", "e2e")


def _say(text: str) -> None:
    sys.stderr.write(f"  {text}\n")


@pytest.fixture(scope="session")
def lab() -> Iterator[LabState]:
    """Three nodes, removed at the end; an earlier one of the same name is removed first.

    For work on the tests themselves, $TRANSSHIP_KEEP_LAB leaves it, or uses the one left.
    """
    keep = bool(os.environ.get("TRANSSHIP_KEEP_LAB"))
    left = find_state(lab_dir(LAB)) if keep else None
    try:
        yield left or cluster.up(LAB, 3, say=_say)
    finally:
        if not keep:
            cluster.down(LAB)


@pytest.fixture(scope="session")
def _session_world(lab: LabState) -> World:
    return World(lab, kubectl=ensure_assets(_say).kubectl)


@pytest.fixture
def world(_session_world: World) -> Iterator[World]:
    """The lab with nothing of another test in it, and all faults healed."""
    _session_world.heal()
    yield _session_world
    _session_world.heal()
    _session_world.clear()


@pytest.fixture
def kubectl(world: World) -> Callable[..., str]:
    return world.kubectl
