"""The lab's store of container images: builds Dockerfiles with buildah, without daemon or registry.

The store lies in the lab's cache and is nobody else's: images of the machine are neither seen nor
touched. The base that the Dockerfiles name is made here with mmdebstrap, since it cannot be pulled
on a machine that reaches Debian's packages alone.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from transship.common.errors import CommandFailed, NotFound
from transship.common.processes import run_blocking
from transship.lab.cache import Say, cache_root, locked
from transship.lab.client_settings import debian_mirror, volumes_for_builds

BASE = "docker.io/library/debian:forky-slim"
SUITE = "forky"
BUILD_TIMEOUT_SECONDS = 1800.0
BUILD_PROCESSES = 32768
OVERLAY = "overlayfs"  # as stat(1) calls it

# what the slim images of Debian leave out
UNNEEDED = ("doc/*", "info/*", "linda/*", "lintian/*", "locale/*", "man/*")
NEEDED = ("doc/*/copyright",)


@contextlib.contextmanager
def built(context: Path, tag: str, *, say: Say) -> Iterator[str]:
    """Build the Dockerfile in a folder; the store is ours alone until the image has been read.

    Steps whose inputs have not changed are not done again.
    """
    with locked("image-store"):
        _buildah(
            "rm", "--all"
        )  # what a crash left: working containers live no longer than the lock
        _ensure_base(say)
        say(f"building the image {tag}")
        with volumes_for_builds() as volumes:
            _buildah(
                "bud",
                "--isolation=chroot",
                "--layers",
                "--pull=never",
                _ulimit(),
                *(f"--volume={volume}" for volume in volumes),
                f"--tag={tag}",
                str(context),
            )
        _buildah("rmi", "--prune")  # steps that no tagged image is made of any more
        yield tag


@contextlib.contextmanager
def mounted(image: str) -> Iterator[Path]:
    """The root file system of an image just built, to read."""
    with _container(image) as container:
        yield Path(_buildah("mount", container))


def export(image: str, layout: Path) -> None:
    """Write an image just built as an OCI layout, compressed, for copying it to registries."""
    _buildah("push", "--quiet", image, f"oci:{layout}")


def _ensure_base(say: Say) -> None:
    if _has(BASE):
        return
    say(f"making {BASE} from Debian's packages")
    with _container("scratch") as container:
        root = Path(_buildah("mount", container))
        excluded = [f"path-exclude=/usr/share/{pattern}" for pattern in UNNEEDED]
        included = [f"path-include=/usr/share/{pattern}" for pattern in NEEDED]
        run_blocking(
            [
                "mmdebstrap",
                "--mode=root",
                "--variant=minbase",
                "--format=directory",
                # mirrors may lag behind, and a testing suite is signed for a week only
                '--aptopt=Acquire::Check-Valid-Until "false"',
                *(f"--dpkgopt={option}" for option in (*excluded, *included)),
                SUITE,
                root,
                *debian_mirror(),
            ],
            timeout_seconds=BUILD_TIMEOUT_SECONDS,
        )
        _buildah("config", "--cmd=bash", container)
        _buildah("commit", "--quiet", container, BASE)


def _has(image: str) -> bool:
    try:
        _buildah("inspect", "--type=image", "--format={{.FromImageID}}", image)
    except CommandFailed:
        return False
    return True


@contextlib.contextmanager
def _container(image: str) -> Iterator[str]:
    """A working container of buildah's, which is a file system and no process."""
    name = _buildah("from", "--pull-never", image)
    try:
        yield name
    finally:
        _buildah("rm", name)


def _buildah(*arguments: str) -> str:
    home = cache_root() / "image-store"
    home.mkdir(parents=True, exist_ok=True)
    driver = os.environ.get("STORAGE_DRIVER") or _driver(home)
    store = [f"--root={home / 'root'}", f"--runroot={home / 'run'}", f"--storage-driver={driver}"]
    try:
        return run_blocking(
            ["buildah", *store, *arguments],
            timeout_seconds=BUILD_TIMEOUT_SECONDS,
        ).stdout.strip()
    except FileNotFoundError as e:
        raise NotFound("running buildah: it is not installed", hint="make setup") from e


def _driver(home: Path) -> str:
    """Overlay, except where the store itself would lie on an overlay (in a container, say)."""
    kind = run_blocking(["stat", "--file-system", "--format=%T", home]).stdout.strip()
    return "vfs" if kind == OVERLAY else "overlay"


def _ulimit() -> str:
    """Buildah's own limit of processes, where the machine's is not lower.

    Without CAP_SYS_RESOURCE, not even root may raise it.
    """
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    limit = BUILD_PROCESSES if hard == resource.RLIM_INFINITY else min(hard, BUILD_PROCESSES)
    return f"--ulimit=nproc={limit}:{limit}"
