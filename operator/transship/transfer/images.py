"""CRIU's small images as one body: a tar archive in memory.

The pages are not among them: they went to the target's page server during the dump.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from transship.common.errors import InvalidInput


def pack(folder: Path) -> bytes:
    """All regular files of a folder, by their bare names."""
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.is_symlink():
                content = path.read_bytes()
                about = tarfile.TarInfo(path.name)  # `add` would look up whose the file is
                about.size = len(content)
                archive.addfile(about, io.BytesIO(content))
    return body.getvalue()


def unpack(body: bytes, folder: Path) -> None:
    """Write the files into a folder. Raises InvalidInput when the body is no such archive."""
    try:
        with tarfile.open(fileobj=io.BytesIO(body), mode="r:") as archive:
            for member in archive:
                _write(archive, member, folder)
    except tarfile.TarError as e:
        raise InvalidInput(f"reading the images of a dump: {e}", reason="ImagesDamaged") from e


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    content = archive.extractfile(member) if member.isreg() else None
    if content is None or Path(member.name).name != member.name:
        raise InvalidInput(
            f"reading the images of a dump: {member.name!r} is no plain file name",
            reason="ImagesDamaged",
        )
    (folder / member.name).write_bytes(content.read())
