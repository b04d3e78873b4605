"""Dump, way back and held restore on a node, by the runtime package alone."""

from __future__ import annotations

from pathlib import Path

import checkpoint_scenarios
import pytest

from transship.common.processes import run_blocking
from transship.lab.nodes.namespace_nodes import enter_words
from transship.lab.state import LabState, lab_dir

pytestmark = pytest.mark.lab

NODE = "node-a"
TIMEOUT_SECONDS = 240.0
"""Where runc is killed after its copy is held, its conmon is waited for in vain: 20 s each time."""
PYTHON = "/opt/transship/bin/python"
SOURCE = Path(checkpoint_scenarios.__file__)


@pytest.mark.parametrize("scenario", checkpoint_scenarios.SCENARIOS)
def test_on_a_node(lab: LabState, scenario: str) -> None:
    words = [*enter_words(lab_dir(lab.name), NODE), PYTHON, "-", scenario]
    image = f"{lab.registry}/counter:1"
    run_blocking(
        [*words, image, lab.cgroup_of(NODE)],
        stdin=SOURCE.read_bytes(),
        timeout_seconds=TIMEOUT_SECONDS,
    )
