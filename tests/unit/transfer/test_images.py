"""The images of a dump as one body."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from transship.common.errors import InvalidInput
from transship.transfer.images import pack, unpack


def archive(name: str) -> bytes:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    return body.getvalue()


def test_what_is_unpacked_is_what_was_packed(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "core-1.img").write_bytes(bytes(range(256)))
    (source / "empty.img").write_bytes(b"")
    unpack(pack(source), target)
    assert {p.name: p.read_bytes() for p in target.iterdir()} == {
        p.name: p.read_bytes() for p in source.iterdir()
    }


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "folder/file"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput):
        unpack(archive(name), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_body_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        unpack(b"no archive at all, but long enough to be looked at as one" * 20, tmp_path)
