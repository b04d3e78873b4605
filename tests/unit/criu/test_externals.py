from __future__ import annotations

from pathlib import Path

import pytest

from transship.common.errors import NotFound
from transship.criu.externals import externals, network, read_runc_state, read_spec
from transship.runtime import rootfs
from transship.runtime.oci import CapabilitySets, Linux, Mount, Namespace, Process, Spec, User


def spec(*mounts: Mount, masked: tuple[str, ...] = (), netns: str | None = None) -> Spec:
    process = Process(
        user=User(uid=0, gid=0), args=("x",), env=(), cwd="/", capabilities=CapabilitySets()
    )
    namespaces = (Namespace(type="pid"), Namespace(type="network", path=netns))
    linux = Linux(namespaces=namespaces, cgroups_path="/x", masked_paths=masked)
    return Spec(oci_version="1.2.0", process=process, hostname="h", mounts=mounts, linux=linux)


def test_bind_mounts_are_named_by_their_destination(tmp_path: Path) -> None:
    bind = Mount(destination="/data", type="bind", source="/var/x", options=("rbind",))
    proc = Mount(destination="/proc", type="proc", source="proc")
    assert externals(spec(bind, proc), root=tmp_path) == ("mnt[/data]:/data",)


def test_a_masked_file_is_the_null_device_and_a_masked_directory_none(tmp_path: Path) -> None:
    (tmp_path / "proc" / "acpi").mkdir(parents=True)
    (tmp_path / "proc" / "keys").touch()
    masked = ("/proc/keys", "/proc/acpi", "/proc/missing")
    assert externals(spec(masked=masked), root=tmp_path) == ("mnt[/proc/keys]:/dev/null",)


def test_the_network_namespace_is_named_by_its_inode(tmp_path: Path) -> None:
    path = tmp_path / "netns"
    path.touch()
    found = externals(spec(netns=str(path)), root=tmp_path)
    assert found == (f"net[{path.stat().st_ino}]:extRootNetNS",)


def test_the_network_namespace_is_known_when_one_was_made_for_the_container() -> None:
    assert network(spec(netns="/run/n")) == Path("/run/n")
    assert network(spec()) is None


def test_a_network_namespace_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="network namespace"):
        externals(spec(netns=str(tmp_path / "gone")), root=tmp_path)


def test_a_plain_dev_is_given_and_one_with_a_file_of_its_own_is_dumped(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    for name in rootfs.DEVICE_NODES:
        (tmp_path / "dev" / name).touch()
    assert externals(spec(), root=tmp_path) == ("mnt[/dev]:dev",)
    (tmp_path / "dev" / "log").touch()
    assert externals(spec(), root=tmp_path) == ()


def test_a_bundle_is_read_as_it_was_written(tmp_path: Path) -> None:
    wanted = spec(Mount(destination="/a", type="bind", source="/b", options=("rbind", "ro")))
    (tmp_path / "config.json").write_text(wanted.text())
    assert read_spec(tmp_path) == wanted
    with pytest.raises(NotFound):
        read_spec(tmp_path / "gone")


def test_runc_says_who_process_1_is_and_what_its_streams_are(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    text = '{"init_process_pid": 7, "external_descriptors": ["/dev/null", "pipe:[1]"], "x": 1}'
    (tmp_path / "c" / "state.json").write_text(text)
    actual = read_runc_state(tmp_path, "c")
    assert (actual.init_process_pid, actual.external_descriptors) == (7, ("/dev/null", "pipe:[1]"))
    with pytest.raises(NotFound):
        read_runc_state(tmp_path, "gone")
