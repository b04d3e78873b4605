"""Lazy dumps and restores on a node, by the runtime package and a page server of the test's own."""

from __future__ import annotations

import base64
import functools
import sys
import tempfile
from pathlib import Path

import checkpoint_scenarios
import lazy_checkpoint_scenarios
import pytest

from transship.common.processes import run_blocking
from transship.lab.nodes.namespace_nodes import enter_words
from transship.lab.state import LabState, lab_dir

pytestmark = pytest.mark.lab

NODE = "node-a"
PYTHON = "/opt/transship/bin/python"
LOADER = """
import sys, types
for name, source in {modules!r}.items():
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
module.main(*sys.argv[1:])
"""
"""Sends the scenarios with it, because they are not installed on a node."""


@pytest.mark.parametrize("scenario", lazy_checkpoint_scenarios.SCENARIOS)
def test_on_a_node(lab: LabState, scenario: str) -> None:
    modules = {
        module.__name__: Path(str(module.__file__)).read_text()
        for module in (checkpoint_scenarios, lazy_checkpoint_scenarios)
    }
    command = [*enter_words(lab_dir(lab.name), NODE), PYTHON, "-", scenario]
    image = f"{lab.registry}/counter:1"
    command = [*command[:-3], "env", f"SUBJECT={compiled('mappings')}", *command[-3:]]
    loader = LOADER.format(modules=modules).encode()
    done = run_blocking([*command, image, lab.cgroup_of(NODE)], stdin=loader)
    sys.stderr.write(f"\n{done.stderr}")


@functools.cache
def compiled(subject: str) -> str:
    """Compile a program of subjects/. Returns it in base64."""
    source = Path(__file__).parent / "subjects" / f"{subject}.c"
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / subject
        run_blocking(["cc", "-O1", "-s", "-pthread", "-o", program, source])
        return base64.b64encode(program.read_bytes()).decode()
