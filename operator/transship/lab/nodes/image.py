"""The root file system of the lab's nodes: the image of the project's Dockerfile, as a folder.

A cluster runs the same image. It is built from the present sources. A folder never changes once it
exists, because nodes use it as the lower layer of an overlay.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from transship.common.errors import NotFound
from transship.common.processes import run_logged
from transship.lab.cache import (
    Say,
    build_log,
    cache_root,
    digest,
    ensure_entry,
    has_entry,
    locked,
)
from transship.lab.images import image_store
from transship.lab.images.package_sources import REPOSITORY
from transship.lab.progress import Step

INPUTS = (".dockerignore", "Dockerfile", "LICENSE", "README.md", "pyproject.toml", "operator")
TAG = "localhost/transship:lab"
EXTENDED_TAG = f"{TAG}-extended"
PREFIX = "node-image-"
FOLDERS_LOCK = "node-images"
EXPORT_TIMEOUT_SECONDS = 600.0
# an unused folder stays for so long, because a new lab mounts it a moment after it is returned
KEEP_SECONDS = 3600.0


def ensure_node_image(say: Say, *, addition: str = "") -> Path:
    """Return the folder of the present sources, and build the image if needed.

    `addition` is appended to the Dockerfile, for nodes with further programs.
    """
    _check_repository()
    folder = cache_root() / _entry(addition)
    if not folder.is_dir():
        folder = _build(say, addition=addition)
    os.utime(folder)
    return folder


def _entry(addition: str = "") -> str:
    return f"{PREFIX}{image_key(REPOSITORY, addition=addition)}"


STEP = Step(
    title="build the image of the nodes",
    subject="node-image",
    usual_seconds=90,
    done=lambda: has_entry(_entry()),
    make=ensure_node_image,
)


def image_key(repository: Path, *, addition: str = "") -> str:
    """A short key of the image's inputs: names, contents and execute permissions."""

    def contents() -> Iterator[bytes]:
        for path in _inputs(repository):
            yield str(path.relative_to(repository)).encode()
            yield b"x" if os.access(path, os.X_OK) else b"-"
            yield path.read_bytes()
        yield addition.encode()

    return digest(contents())


def _build(say: Say, *, addition: str) -> Path:
    with tempfile.TemporaryDirectory(prefix="transship-context-") as name:
        context = Path(name)
        # the sources may change during the build, so the key is made from the copy
        _copy_inputs(context)
        key = image_key(context, addition=addition)
        with (context / "Dockerfile").open("a") as dockerfile:
            dockerfile.write(addition)

        def make(draft: Path) -> None:
            tag = EXTENDED_TAG if addition else TAG
            with image_store.built(context, tag, say=say, step=STEP) as image:
                _export(image, draft)

        # the new folder has hard links to an earlier one, which no other lab may remove meanwhile
        with locked(FOLDERS_LOCK):
            folder = ensure_entry(f"{PREFIX}{key}", make)
            _prune(keep=folder)
    return folder


def _export(image: str, draft: Path) -> None:
    """Copy the image's files. Files that an earlier folder has as well become hard links."""
    earlier = [f"--link-dest={folder}" for folder in _folders()[:1]]
    with image_store.mounted(image) as root:
        run_logged(
            ["rsync", "-aHAX", "--numeric-ids", *earlier, f"{root}/", f"{draft}/"],
            log=build_log(STEP.subject),
            timeout_seconds=EXPORT_TIMEOUT_SECONDS,
        )


def _inputs(repository: Path) -> list[Path]:
    tops = [repository / name for name in INPUTS]
    below = [path for top in tops for path in ([top] if top.is_file() else top.rglob("*"))]
    return sorted(path for path in below if path.is_file() and "__pycache__" not in path.parts)


def _copy_inputs(context: Path) -> None:
    for path in _inputs(REPOSITORY):
        copy = context / path.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)


def _prune(*, keep: Path) -> None:
    """Remove folders of earlier sources that no lab uses."""
    mounts = _all_mounts()
    for folder in _folders():
        used_lately = folder.stat().st_mtime > time.time() - KEEP_SECONDS
        if folder != keep and not used_lately and str(folder) not in mounts:
            shutil.rmtree(folder)


def _all_mounts() -> str:
    """The mounts of all mount namespaces, as text. Processes that end meanwhile are skipped."""
    tables: dict[str, str] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            namespace = str((process / "ns/mnt").readlink())
            if namespace not in tables:
                tables[namespace] = (process / "mountinfo").read_text()
        except OSError:
            continue
    return "\n".join(tables.values())


def _folders() -> list[Path]:
    """All folders, the most recently used one first."""
    folders = cache_root().glob(f"{PREFIX}*")
    return sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)


def _check_repository() -> None:
    if not (REPOSITORY / "Dockerfile").is_file():
        raise NotFound(
            f"looking for the Dockerfile in {REPOSITORY}: it is not there",
            hint="a lab needs a checkout of the repository, installed with `make setup`",
        )
