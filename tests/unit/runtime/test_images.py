from __future__ import annotations

from pathlib import Path

import pytest

from transship.common.errors import InvalidInput
from transship.runtime.images import ImageConfig, ImageStore, Reference, parse_reference

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
def test_references_are_read_as_docker_reads_them(text, expected):
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "UPPER", "a b", "x:", "x@sha256:short", "-flag", "http://x/y", "x\n", "../x", "x//y"],
)
def test_other_texts_are_refused(text):
    with pytest.raises(InvalidInput) as caught:
        parse_reference(text)
    assert caught.value.reason == "InvalidImage"


def test_a_tag_and_a_digest_are_asked_for_by_the_digest():
    assert parse_reference(f"quay.io/x:1@{DIGEST}").at(DIGEST) == f"docker://quay.io/x@{DIGEST}"


def test_a_configuration_with_nulls_is_read():
    seen = ImageConfig.model_validate({"Entrypoint": None, "Cmd": ["a"], "Env": None})
    assert (seen.entrypoint, seen.cmd, seen.env) == ((), ("a",), ())


def unpacked(root: Path, digest: str) -> Path:
    directory = root / digest.replace(":", "-")
    (directory / "rootfs").mkdir(parents=True)
    (directory / "config.json").write_text('{"config": {"User": "app"}}')
    return directory


async def test_an_image_that_is_here_is_found_without_asking_anybody(tmp_path):
    directory = unpacked(tmp_path, DIGEST)
    image = await ImageStore(tmp_path).pull(f"quay.io/x@{DIGEST}")
    assert image.rootfs == directory / "rootfs"
    assert image.config.user == "app"


async def test_a_tag_can_be_pinned_to_what_it_once_meant(tmp_path):
    unpacked(tmp_path, DIGEST)
    assert (await ImageStore(tmp_path).pull("quay.io/x:1", digest=DIGEST)).digest == DIGEST


async def test_pruning_keeps_what_is_in_use_and_sweeps_up_after_a_crash(tmp_path):
    other = DIGEST.replace("a" * 64, "b" * 64)
    kept, dropped = unpacked(tmp_path, DIGEST), unpacked(tmp_path, other)
    (tmp_path / "draft-x").mkdir()
    assert await ImageStore(tmp_path).prune({DIGEST}) == (other,)
    assert kept.exists()
    assert not dropped.exists()
    assert not (tmp_path / "draft-x").exists()
