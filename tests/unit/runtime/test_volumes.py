from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from transship.api.container import (
    ConfigMapVolume,
    EmptyDir,
    HostPath,
    NfsVolume,
    Volume,
    VolumeMount,
)
from transship.common.errors import InvalidInput, TransshipError
from transship.linux import mounts
from transship.runtime import volumes
from transship.runtime.layout import Layout
from transship.runtime.volumes import Bind, OrderedVolume, VolumeFile, find_host_path


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setattr(mounts, "mount", lambda *_args, **_kwargs: None)
    return Layout(tmp_path / "state", tmp_path / "run")


async def provided(layout: Layout, *ordered: OrderedVolume) -> dict[str, Path]:
    return await volumes.provide(ordered, container_id="id", layout=layout)


async def test_an_empty_dir_may_be_written_by_any_user(layout: Layout) -> None:
    paths = await provided(layout, OrderedVolume(Volume(name="v", empty_dir=EmptyDir())))
    assert paths == {"v": layout.volumes("id") / "v"}
    assert paths["v"].stat().st_mode & 0o777 == 0o777


async def test_what_a_container_wrote_stays(layout: Layout) -> None:
    volume = OrderedVolume(Volume(name="v", empty_dir=EmptyDir()))
    path = (await provided(layout, volume))["v"]
    (path / "file").touch()
    await provided(layout, volume)
    assert (path / "file").exists()


async def test_the_keys_of_a_config_map_are_files(layout: Layout) -> None:
    files = (VolumeFile("key", b"value", mode=0o600), VolumeFile("sub/key", b"other"))
    volume = Volume(name="v", config_map=ConfigMapVolume(name="c"))
    path = (await provided(layout, OrderedVolume(volume, files)))["v"]
    assert (path / "key").read_bytes() == b"value"
    assert (path / "key").stat().st_mode & 0o777 == 0o600
    assert (path / "sub/key").read_bytes() == b"other"


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x"])
async def test_files_outside_their_volume_are_refused(layout: Layout, name: str) -> None:
    volume = Volume(name="v", config_map=ConfigMapVolume(name="c"))
    with pytest.raises(InvalidInput, match="outside its volume"):
        await provided(layout, OrderedVolume(volume, (VolumeFile(name, b""),)))


async def test_a_host_path_has_to_exist(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    here = OrderedVolume(Volume(name="v", host_path=HostPath(path=f"{tmp_path}/here")))
    assert await provided(layout, here) == {"v": tmp_path / "here"}
    gone = OrderedVolume(Volume(name="v", host_path=HostPath(path=f"{tmp_path}/gone")))
    with pytest.raises(InvalidInput) as caught:
        await provided(layout, gone)
    assert caught.value.reason == "HostPathNotFound"


async def test_nfs_without_its_tools_says_what_to_install(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    volume = OrderedVolume(Volume(name="v", nfs=NfsVolume(server="s", path="/export")))
    with pytest.raises(TransshipError) as caught:
        await provided(layout, volume)
    assert "nfs-common" in caught.value.hint


def binds(
    *wanted: VolumeMount, path: Path, writable: frozenset[str] = frozenset({"v"})
) -> tuple[Bind, ...]:
    return volumes.binds(wanted, volumes={"v": path}, writable=writable)


def test_a_mount_is_writable_unless_it_or_its_volume_is_not(tmp_path: Path) -> None:
    plain = VolumeMount(name="v", mount_path="/m")
    assert binds(plain, path=tmp_path) == (Bind(tmp_path, "/m", read_only=False),)
    assert binds(plain, path=tmp_path, writable=frozenset())[0].read_only
    only = VolumeMount(name="v", mount_path="/m", read_only=True)
    assert binds(only, path=tmp_path)[0].read_only


def test_a_sub_path_is_made(tmp_path: Path) -> None:
    (bind,) = binds(VolumeMount(name="v", mount_path="/m", sub_path="a/b"), path=tmp_path)
    assert bind.source == tmp_path / "a/b"
    assert bind.source.is_dir()


def test_a_sub_path_cannot_leave_the_volume(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "link").symlink_to(tmp_path)
    (bind,) = binds(VolumeMount(name="v", mount_path="/m", sub_path="link/x"), path=volume)
    assert bind.source.is_relative_to(volume)


def test_an_unknown_volume_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        binds(VolumeMount(name="other", mount_path="/m"), path=tmp_path)
    assert "'other'" in caught.value.message
    assert caught.value.hint == "spec.volumes has: v"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The node's file system, as an agent in a Pod has it mounted."""
    root = tmp_path / "host"
    for name in ("etc", "srv/data", "var/lib/transship/journal", "var/lib/kubelet/pods/x"):
        (root / name).mkdir(parents=True)
    return root


@pytest.fixture
def layout_in_pod(root: Path) -> Layout:
    return Layout(host_root=root)


def refusal(path: str, layout: Layout) -> str:
    with pytest.raises(InvalidInput) as caught:
        find_host_path(path, layout=layout)
    return caught.value.reason


def test_a_path_is_the_nodes(root: Path, layout_in_pod: Layout) -> None:
    assert find_host_path("/srv/data", layout=layout_in_pod) == root / "srv/data"


@pytest.mark.parametrize("target", ["/srv/data", "../../../../srv/data", "data", "/../srv/./data"])
def test_links_and_dots_end_at_the_nodes_root(
    root: Path, layout_in_pod: Layout, target: str
) -> None:
    (root / "srv/link").symlink_to(target)
    assert find_host_path("/srv/link", layout=layout_in_pod) == root / "srv/data"


def test_what_only_the_agents_pod_has_does_not_exist(layout_in_pod: Layout) -> None:
    assert refusal("/proc/self/status", layout_in_pod) == "HostPathNotFound"


@pytest.mark.parametrize(
    "path",
    [
        "/", "/var", "/var/lib/transship", "/var/lib/transship/journal", "/run/transship/x", "/run",
        "/srv/../var/lib", "/var/lib/kubelet/pods/x", "/srv/alias", "/srv/alias/journal",
    ],
)  # fmt: skip
def test_what_is_the_agents_is_refused(root: Path, layout_in_pod: Layout, path: str) -> None:
    (root / "srv/alias").symlink_to("/var/lib/transship")
    assert refusal(path, layout_in_pod) == "HostPathRefused"


def test_a_secret_of_the_agent_is_known_under_another_name(root: Path, tmp_path: Path) -> None:
    """What is mounted into its Pod lies on the node under a name that the Pod does not know."""
    secret = tmp_path / "kubeconfig"
    secret.touch()
    (root / "srv/kubelet-has-it-here").hardlink_to(secret)
    layout = Layout(host_root=root, secrets=(secret,))
    assert refusal("/srv/kubelet-has-it-here", layout) == "HostPathRefused"
    assert find_host_path("/srv/data", layout=layout) == root / "srv/data"
