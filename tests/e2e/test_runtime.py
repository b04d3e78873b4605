"""Containers on one node by the runtime package alone: no agent, no operator has a hand in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import runtime_scenarios

from transship.common.processes import run_blocking
from transship.lab.nodes.namespace_nodes import enter_words
from transship.lab.state import LabState, lab_dir

pytestmark = pytest.mark.lab

NODE = "node-a"
PYTHON = "/opt/transship/bin/python"
SOURCE = Path(runtime_scenarios.__file__)


@pytest.mark.parametrize("scenario", runtime_scenarios.SCENARIOS)
def test_on_a_node(lab: LabState, scenario: str) -> None:
    words = [*enter_words(lab_dir(lab.name), NODE), PYTHON, "-", scenario]
    image = f"{lab.registry}/counter:1"
    run_blocking([*words, image, lab.cgroup_of(NODE)], stdin=SOURCE.read_bytes())
