from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from transship.common.errors import InvalidInput
from transship.linux import mounts
from transship.runtime import image_store as module
from transship.runtime.image_format import ImageConfig, Reference, parse_reference
from transship.runtime.image_store import ImageStore

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nginx", Reference("docker.io", "library/nginx", "latest", None)),
        ("me/nginx:1", Reference("docker.io", "me/nginx", "1", None)),
        ("10.0.0.1:5000/a/b:v1.2", Reference("10.0.0.1:5000", "a/b", "v1.2", None)),
        ("localhost/x", Reference("localhost", "x", "latest", None)),
        (f"quay.io/x@{DIGEST}", Reference("quay.io", "x", "latest", DIGEST)),
        (f"quay.io/x:1@{DIGEST}", Reference("quay.io", "x", "1", DIGEST)),
    ],
)
def test_references_are_read_as_docker_reads_them(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "UPPER", "a b", "x:", "x@sha256:short", "-flag", "http://x/y", "x\n", "../x", "x//y"],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_reference(text)
    assert caught.value.reason == "InvalidImage"


def test_a_tag_and_a_digest_are_asked_for_by_the_digest() -> None:
    assert parse_reference(f"quay.io/x:1@{DIGEST}").at(DIGEST) == f"docker://quay.io/x@{DIGEST}"


def test_a_configuration_with_nulls_is_read() -> None:
    actual = ImageConfig.model_validate({"Entrypoint": None, "Cmd": ["a"], "Env": None})
    assert (actual.entrypoint, actual.cmd, actual.env) == ((), ("a",), ())


def unpacked(root: Path, digest: str) -> Path:
    directory = root / digest.replace(":", "-")
    (directory / "rootfs").mkdir(parents=True)
    (directory / "config.json").write_text('{"config": {"User": "app"}}')
    return directory


async def test_an_image_that_is_here_is_found_without_asking_anybody(tmp_path: Path) -> None:
    directory = unpacked(tmp_path, DIGEST)
    image = await ImageStore(tmp_path).pull(f"quay.io/x@{DIGEST}")
    assert image.rootfs == directory / "rootfs"
    assert image.config.user == "app"


async def test_a_tag_can_be_pinned_to_what_it_once_meant(tmp_path: Path) -> None:
    unpacked(tmp_path, DIGEST)
    assert (await ImageStore(tmp_path).pull("quay.io/x:1", digest=DIGEST)).digest == DIGEST


async def test_pruning_keeps_what_is_in_use_and_sweeps_up_after_a_crash(tmp_path: Path) -> None:
    other = DIGEST.replace("a" * 64, "b" * 64)
    kept, dropped = unpacked(tmp_path, DIGEST), unpacked(tmp_path, other)
    (tmp_path / "draft-x").mkdir()
    assert await ImageStore(tmp_path).prune({DIGEST}) == (other,)
    assert kept.exists()
    assert not dropped.exists()
    assert not (tmp_path / "draft-x").exists()


OTHER = "sha256:" + "b" * 64


def aged(directory: Path, *, seconds: float) -> Path:
    then = time.time() - seconds
    os.utime(directory, (then, then))
    return directory


async def test_what_was_asked_for_a_while_ago_stays(tmp_path: Path) -> None:
    young = aged(unpacked(tmp_path, DIGEST), seconds=5000)
    aged(unpacked(tmp_path, OTHER), seconds=5000)
    (tmp_path / "draft-young").mkdir()
    (tmp_path / "draft-old").mkdir()
    aged(tmp_path / "draft-old", seconds=5000)
    store = ImageStore(tmp_path)
    await store.pull(f"quay.io/x@{DIGEST}")
    assert await store.prune((), unused_seconds=3600) == (OTHER,)
    assert {path.name for path in tmp_path.iterdir()} == {young.name, "draft-young"}


async def test_the_lower_layer_of_a_mounted_overlay_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = unpacked(tmp_path, DIGEST)
    table = tmp_path / "mountinfo"
    table.write_text(
        "77 30 0:51 / /var/lib/transship/containers/c/bundle/rootfs rw - overlay overlay "
        f"rw,lowerdir={directory}/rootfs,upperdir=/u,workdir=/w\n"
    )
    monkeypatch.setattr(module, "MOUNTS", table)
    assert await ImageStore(tmp_path).prune(()) == ()
    table.write_text("")
    assert await ImageStore(tmp_path).prune(()) == (DIGEST,)


async def test_an_image_of_which_a_container_is_just_being_made_stays(tmp_path: Path) -> None:
    unpacked(tmp_path, DIGEST)
    store = ImageStore(tmp_path)
    with store.held(DIGEST):
        assert await store.prune(()) == ()
    assert await store.prune(()) == (DIGEST,)


async def test_a_pull_under_way_keeps_its_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is as old as the pull takes."""
    store, goes_on = ImageStore(tmp_path), asyncio.Event()

    async def unpack(source: str, *, tls: list[str], draft: Path) -> None:
        (draft / "config.json").write_text("{}")
        await goes_on.wait()

    monkeypatch.setattr(store, "_unpack", unpack)
    pulling = asyncio.create_task(store.pull(f"quay.io/x@{DIGEST}"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    (draft,) = tmp_path.glob("draft-*")
    aged(draft, seconds=5000)
    assert await store.prune(()) == ()
    goes_on.set()
    assert (await pulling).digest == DIGEST


async def test_what_is_just_being_deleted_is_not_found_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked(tmp_path, DIGEST)
    store, actual = ImageStore(tmp_path), []
    monkeypatch.setattr(mounts, "remove_tree", lambda _: actual.append(store.find(DIGEST)))
    assert await store.prune(()) == (DIGEST,)
    assert actual == [None]


async def test_what_cannot_be_deleted_is_left_to_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "draft-x").mkdir()
    directory = unpacked(tmp_path, DIGEST)

    def remove_tree(_: Path) -> None:
        raise OSError("somebody writes there")

    with monkeypatch.context() as patch:
        patch.setattr(mounts, "remove_tree", remove_tree)
        assert await ImageStore(tmp_path).prune(()) == (DIGEST,)
    assert not directory.exists()
    await ImageStore(tmp_path).prune(())
    assert list(tmp_path.iterdir()) == []
