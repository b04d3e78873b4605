from __future__ import annotations

from pathlib import Path

import pytest

from transship.common.errors import TransshipError
from transship.linux import cgroups
from transship.linux.cgroups import Hierarchies

HYBRID = """\
31 25 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:29 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
34 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
35 31 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""
UNIFIED = "31 25 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"


def test_a_hybrid_machine_is_v1_with_a_hierarchy_more() -> None:
    actual = cgroups.detect(HYBRID)
    assert not actual.unified
    assert actual.path("/a/b", controller="cpuacct") == Path("/sys/fs/cgroup/cpu,cpuacct/a/b")
    assert [path.parent.name for path in actual.paths("a")] == [
        "cpu,cpuacct", "freezer", "systemd", "unified",
    ]  # fmt: skip


def test_a_unified_machine_has_one_path_for_all_controllers() -> None:
    actual = cgroups.detect(UNIFIED)
    assert actual.unified
    assert actual.path("/a", controller="memory") == Path("/sys/fs/cgroup/a")
    assert actual.paths("/a") == (Path("/sys/fs/cgroup/a"),)


def test_a_machine_without_cgroups_is_told_so() -> None:
    with pytest.raises(TransshipError, match="no cgroups"):
        cgroups.detect("1 1 0:1 / / rw - ext4 /dev/sda rw\n")


def test_a_new_cpuset_gets_what_the_one_above_has(tmp_path: Path) -> None:
    for name, value in (("cpuset.cpus", "0-3\n"), ("cpuset.mems", "0\n")):
        (tmp_path / name).write_text(value)
    child = tmp_path / "a"
    child.mkdir()
    for name in ("cpuset.cpus", "cpuset.mems"):
        (child / name).write_text("\n")
    cgroups.create(Hierarchies({"cpuset": tmp_path}), "/a")
    assert (child / "cpuset.cpus").read_text() == "0-3\n"


def test_creating_makes_all_above_in_every_hierarchy(tmp_path: Path) -> None:
    actual = Hierarchies({"cpu": tmp_path / "cpu", "freezer": tmp_path / "freezer"})
    for base in actual.mounts.values():
        base.mkdir()
    cgroups.create(actual, "/a/b")
    cgroups.create(actual, "/a/b")
    assert all(path.is_dir() for path in actual.paths("/a/b"))
    cgroups.remove(actual, "/a")
    assert not any(path.exists() for path in actual.paths("/a"))
    cgroups.remove(actual, "/a")


def test_who_is_gone_has_no_members(tmp_path: Path) -> None:
    assert cgroups.members(Hierarchies({"freezer": tmp_path}), "/gone") == ()


def test_processes_of_another_pid_namespace_are_nobody(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "cgroup.procs").write_text("0\n7\n")
    assert cgroups.members(Hierarchies({"": tmp_path}), "/a") == (7,)


def test_the_cpu_time_is_counted_by_the_controller_of_v1(tmp_path: Path) -> None:
    group = tmp_path / "a"
    group.mkdir()
    (group / "cpuacct.usage").write_text("5\n")
    assert cgroups.cpu_nanoseconds(Hierarchies({"cpuacct": tmp_path}), "/a") == 5


def test_the_cpu_time_of_v2_is_told_in_microseconds(tmp_path: Path) -> None:
    group = tmp_path / "a"
    group.mkdir()
    (group / "cpu.stat").write_text("usage_usec 5\nuser_usec 1\n")
    assert cgroups.cpu_nanoseconds(Hierarchies({"": tmp_path}), "/a") == 5000


def test_who_does_not_run_uses_nothing(tmp_path: Path) -> None:
    assert cgroups.cpu_nanoseconds(Hierarchies({"": tmp_path}), "/gone") is None


def test_thawing_writes_to_the_freezer_of_the_version(tmp_path: Path) -> None:
    group = tmp_path / "a"
    group.mkdir()
    cgroups.thaw(Hierarchies({"freezer": tmp_path}), "/a")
    assert (group / "freezer.state").read_text() == "THAWED"
    cgroups.thaw(Hierarchies({"": tmp_path}), "/a")
    assert (group / "cgroup.freeze").read_text() == "0"


def test_v2_is_killed_by_one_write(tmp_path: Path) -> None:
    group = tmp_path / "a"
    group.mkdir()
    (group / "cgroup.kill").touch()
    cgroups.kill(Hierarchies({"": tmp_path}), "/a")
    assert (group / "cgroup.kill").read_text() == "1"
