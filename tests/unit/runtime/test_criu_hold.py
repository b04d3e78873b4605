"""The hold script, run by a real shell on a directory that looks like a cgroup."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from transship.runtime import hold
from transship.runtime.freezer import Freezer


class Cgroup:
    """A cgroup whose state files show what is written into them, as a real one's do."""

    def __init__(self, folder: Path, *, unified: bool, members: str = "") -> None:
        self.path, self.refuge = folder / "it's c", folder / "c.criu"
        self.path.mkdir()
        self.refuge.mkdir()
        self.freezer = Freezer(self.path, unified=unified)
        (self.path / "cgroup.procs").write_text(members)
        self.freezer.control.write_text("")
        self.script = folder / "hold"
        self.script.write_text(hold.script(self.freezer, refuge=self.refuge))
        self.script.chmod(0o700)

    def run(self, stage: str) -> int:
        env = {"CRTOOLS_SCRIPT_ACTION": stage, "PATH": os.environ["PATH"]}
        return subprocess.run([self.script], env=env, check=False).returncode


def test_at_pre_resume_a_v1_cgroup_is_frozen(tmp_path: Path) -> None:
    cgroup = Cgroup(tmp_path, unified=False)
    assert cgroup.run("pre-resume") == 0
    assert cgroup.freezer.control.read_text() == "FROZEN\n"


def test_at_pre_resume_a_v2_cgroup_is_frozen(tmp_path: Path) -> None:
    cgroup = Cgroup(tmp_path, unified=True)
    (cgroup.path / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    assert cgroup.run("pre-resume") == 0
    assert cgroup.freezer.control.read_text() == "1\n"


def test_what_does_not_freeze_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as victim:
        cgroup = Cgroup(tmp_path, unified=True, members=f"{victim.pid}\n")
        (cgroup.path / "cgroup.events").write_text("populated 1\nfrozen 0\n")
        assert cgroup.run("pre-resume") != 0
        assert victim.wait(timeout=5) == -9


def test_criu_is_moved_to_its_refuge(tmp_path: Path) -> None:
    cgroup = Cgroup(tmp_path, unified=False, members="1\n2\n")
    assert cgroup.run("post-restore") == 0
    assert not (cgroup.refuge / "cgroup.procs").exists()


def test_a_criu_that_cannot_leave_makes_the_restore_fail(tmp_path: Path) -> None:
    cgroup = Cgroup(tmp_path, unified=False, members=f"{os.getpid()}\n")
    assert cgroup.run("post-restore") != 0
    assert (cgroup.refuge / "cgroup.procs").read_text() == f"{os.getpid()}\n"


def test_a_freezer_that_cannot_be_written_makes_the_restore_fail(tmp_path: Path) -> None:
    cgroup = Cgroup(tmp_path, unified=False)
    cgroup.freezer.control.unlink()
    assert cgroup.run("post-restore") != 0


@pytest.mark.parametrize("stage", ["pre-restore", "network-unlock", "post-resume"])
def test_other_stages_are_let_pass(tmp_path: Path, stage: str) -> None:
    cgroup = Cgroup(tmp_path, unified=False)
    assert cgroup.run(stage) == 0
    assert cgroup.freezer.control.read_text() == ""


def test_the_configuration_names_script_and_devices() -> None:
    text = hold.configuration(Path("/run/x/hold"), devices=Path("/var/x/dev"))
    assert "action-script /run/x/hold\n" in text
    assert "external mnt[dev]:/var/x/dev\n" in text
    assert "network-lock skip\n" in text
