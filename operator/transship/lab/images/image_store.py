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
from transship.common.processes import run_blocking, run_logged
from transship.lab.cache import Say, cache_root, locked, new_log
from transship.lab.images.package_sources import debian_mirror, volumes_for_builds
from transship.lab.progress import Step

BASE = "docker.io/library/debian:forky-slim"
SUITE = "forky"
BUILD_TIMEOUT_SECONDS = 1800.0
BUILD_PROCESSES = 32768
OVERLAY = "overlayfs"  # as stat(1) calls it

# what the slim images of Debian leave out
UNNEEDED = ("doc/*", "info/*", "linda/*", "lintian/*", "locale/*", "man/*")
NEEDED = ("doc/*/copyright",)


@contextlib.contextmanager
def built(context: Path, tag: str, *, say: Say, step: Step) -> Iterator[str]:
    """Build the Dockerfile in a folder; the store is ours alone until the image has been read.

    Stages whose inputs have not changed are not built again. `step` says what it is for.
    """
    with _store():
        _ensure_base(say)
        say(step.announcement)
        with volumes_for_builds() as volumes:
            _build(
                new_log(step.subject),
                "bud",
                "--isolation=chroot",
                "--layers",
                "--pull=never",
                _ulimit(),
                *(f"--volume={volume}" for volume in volumes),
                f"--tag={tag}",
                str(context),
            )
        _buildah("rmi", "--prune")  # layers that no tagged image is made of any more
        yield tag


def base_exists() -> bool:
    """Whether the base is in the store; without buildah there is no store."""
    try:
        return _has(BASE)
    except NotFound:
        return False


@contextlib.contextmanager
def mounted(image: str) -> Iterator[Path]:
    """The root file system of an image just built, to read."""
    with _container(image) as container:
        yield Path(_buildah("mount", container))


def export(image: str, layout: Path) -> None:
    """Write an image just built as an OCI layout, compressed, for copying it to registries."""
    _buildah("push", "--quiet", image, f"oci:{layout}")


def _make_base(say: Say) -> None:
    with _store():
        _ensure_base(say)


BASE_STEP = Step(
    title=f"make the base image {BASE.rpartition('/')[2]}",
    subject="base-image",
    usual_seconds=45,
    done=base_exists,
    make=_make_base,
)


@contextlib.contextmanager
def _store() -> Iterator[None]:
    """The store for ourselves, without the working containers that a crash has left."""
    with locked("image-store"):
        _buildah("rm", "--all")
        yield


def _ensure_base(say: Say) -> None:
    if _has(BASE):
        return
    say(BASE_STEP.announcement)
    log = new_log(BASE_STEP.subject)
    with _container("scratch") as container:
        root = Path(_buildah("mount", container))
        excluded = [f"path-exclude=/usr/share/{pattern}" for pattern in UNNEEDED]
        included = [f"path-include=/usr/share/{pattern}" for pattern in NEEDED]
        run_logged(
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
            log=log,
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


def _build(log: Path, *arguments: str) -> None:
    """Run buildah with its output in a log."""
    with _installed():
        run_logged([*_buildah_words(), *arguments], log=log, timeout_seconds=BUILD_TIMEOUT_SECONDS)


def _buildah(*arguments: str) -> str:
    """Run buildah for what it answers."""
    with _installed():
        words = [*_buildah_words(), *arguments]
        return run_blocking(words, timeout_seconds=BUILD_TIMEOUT_SECONDS).stdout.strip()


def _buildah_words() -> list[str]:
    home = cache_root() / "image-store"
    home.mkdir(parents=True, exist_ok=True)
    driver = os.environ.get("STORAGE_DRIVER") or _driver(home)
    store = [f"--root={home / 'root'}", f"--runroot={home / 'run'}", f"--storage-driver={driver}"]
    return ["buildah", *store]


@contextlib.contextmanager
def _installed() -> Iterator[None]:
    try:
        yield
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
