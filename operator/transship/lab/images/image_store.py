"""The lab's store of container images: builds Dockerfiles with buildah, without daemon or registry.

The store is in the lab's cache, apart from the machine's images. The base image is built with
mmdebstrap, because machines that only reach Debian's packages cannot pull it.
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
# as stat(1) calls it
OVERLAY = "overlayfs"

# Debian's slim images leave these out
UNNEEDED = ("doc/*", "info/*", "linda/*", "lintian/*", "locale/*", "man/*")
NEEDED = ("doc/*/copyright",)


@contextlib.contextmanager
def built(context: Path, tag: str, *, say: Say, step: Step) -> Iterator[str]:
    """Build the Dockerfile of a folder. The store is locked inside the `with`.

    Layers with unchanged inputs are not built again. `step` has title and log.
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
        # remove layers that no tagged image uses any more
        _buildah("rmi", "--prune")
        yield tag


def base_exists() -> bool:
    """Whether the base image is in the store. False without buildah."""
    try:
        return _has(BASE)
    except NotFound:
        return False


@contextlib.contextmanager
def mounted(image: str) -> Iterator[Path]:
    """The root file system of a new image, for reading."""
    with _container(image) as container:
        yield Path(_buildah("mount", container))


def export(image: str, layout: Path) -> None:
    """Write a new image as a compressed OCI layout, from which it can be pushed."""
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
    """Lock the store, and remove working containers that a crash has left."""
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
                # mirrors may lag behind, and signatures of a testing suite expire after a week
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
    """A working container of buildah: a file system without a process."""
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
    """Run buildah and return its output."""
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
    """Overlay, unless the store itself is on an overlay, as in a container."""
    kind = run_blocking(["stat", "--file-system", "--format=%T", home]).stdout.strip()
    return "vfs" if kind == OVERLAY else "overlay"


def _ulimit() -> str:
    """The process limit of builds, lowered to the machine's hard limit.

    Without CAP_SYS_RESOURCE, not even root may raise that limit.
    """
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    limit = BUILD_PROCESSES if hard == resource.RLIM_INFINITY else min(hard, BUILD_PROCESSES)
    return f"--ulimit=nproc={limit}:{limit}"
