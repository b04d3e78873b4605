"""What is left of a restore that was given up, on directories in place of cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from transship.criu import discard as discard_module
from transship.criu.discard import discard
from transship.linux import cgroups
from transship.linux.freezer import Freezer, FreezerState
from transship.runtime.layout import Layout

CONTAINER = "0b5e2c1a-0000-4000-8000-000000000001"


@pytest.fixture
def freezer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Freezer:
    """The freezer of a container that has no process."""
    found = Freezer(tmp_path / CONTAINER, unified=False)
    found.path.mkdir()
    (found.path / "cgroup.procs").write_text("")
    (found.path / "freezer.state").write_text("THAWED\n")
    monkeypatch.setattr(discard_module, "freezer_of", lambda _cgroup: found)
    monkeypatch.setattr(cgroups, "remove", lambda _hierarchies, _path: None)
    return found


async def test_a_cgroup_that_the_gate_froze_last_is_thawed_for_the_next_restore(
    freezer: Freezer, tmp_path: Path
) -> None:
    freezer.request_freeze()
    layout = Layout(state_dir=tmp_path / "state", runtime_dir=tmp_path / "run")
    await discard(layout, CONTAINER)
    assert freezer.state() is FreezerState.THAWED


async def test_a_cgroup_that_is_gone_needs_no_thaw(freezer: Freezer, tmp_path: Path) -> None:
    for each in freezer.path.iterdir():
        each.unlink()
    freezer.path.rmdir()
    await discard(Layout(state_dir=tmp_path / "state", runtime_dir=tmp_path / "run"), CONTAINER)
