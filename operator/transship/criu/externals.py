"""What a dump takes from outside of the container: its bundle, runc's state and open directories.

CRIU dumps a bind mount or a network namespace by a name only, and a restore has to supply what the
name stands for. runc supplies it, so a dump uses runc's names (libcontainer/criu_linux.go).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from transship.common.errors import NotFound
from transship.runtime import rootfs
from transship.runtime.oci import Spec

NETWORK_KEY = "extRootNetNS"
DEVICES_KEY = "dev"
"""Names /dev, which a restore mounts from layout.devices."""
MASK = "/dev/null"


class RuncState(BaseModel):
    """The part of runc's state.json that a dump needs.

    `external_descriptors` are the targets of the standard streams at the start or the restore.
    """

    model_config = ConfigDict(frozen=True)

    init_process_pid: int
    external_descriptors: tuple[str, ...] | None = None


def read_runc_state(runc_root: Path, container: str) -> RuncState:
    """Read runc's state of a container. Raises NotFound."""
    path = runc_root / container / "state.json"
    try:
        return RuncState.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as e:
        raise NotFound(f"reading runc's state of container {container}: {e}") from e


def write_descriptors(images: Path, descriptors: tuple[str, ...] | None) -> None:
    """Write descriptors.json, as `runc checkpoint` does; `runc restore` connects streams by it."""
    (images / "descriptors.json").write_text(json.dumps(descriptors))


def read_spec(bundle: Path) -> Spec:
    """Read the config.json of a bundle. Raises NotFound."""
    try:
        return Spec.model_validate_json((bundle / "config.json").read_bytes())
    except (OSError, ValidationError) as e:
        raise NotFound(f"reading the bundle {bundle}: {e}") from e


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[int]:
    """Open a directory for CRIU, whose requests name directories by descriptor; create it first."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def externals(spec: Spec, *, root: Path) -> tuple[str, ...]:
    """Build CRIU's `external` options for a dump; `root` is the container's / on the node."""
    return (*_binds(spec), *_devices(root), *_masks(spec, root=root), *_network(spec))


def network(spec: Spec) -> Path | None:
    """Return the path of the network namespace that was created for the container."""
    for namespace in spec.linux.namespaces:
        if namespace.type == "network" and namespace.path is not None:
            return Path(namespace.path)
    return None


def _binds(spec: Spec) -> Iterator[str]:
    for mount in spec.mounts:
        if mount.type == "bind" or {"bind", "rbind"} & set(mount.options):
            yield f"mnt[{mount.destination}]:{mount.destination}"


def _devices(root: Path) -> Iterator[str]:
    """Name /dev as external unless the container changed it: CRIU runs tar for it, 5 to 7 ms."""
    # the process may have ended; CRIU reports that
    with contextlib.suppress(OSError):
        if rootfs.has_only_standard_devices(root / "dev"):
            yield f"mnt[/dev]:{DEVICES_KEY}"


def _masks(spec: Spec, *, root: Path) -> Iterator[str]:
    """Name the masked files, over which runc binds /dev/null (on directories it mounts a tmpfs)."""
    for path in spec.linux.masked_paths:
        masked = root / path.lstrip("/")
        if masked.exists() and not masked.is_dir():
            yield f"mnt[{path}]:{MASK}"


def _network(spec: Spec) -> Iterator[str]:
    path = network(spec)
    if path is not None:
        yield f"net[{_inode(path)}]:{NETWORK_KEY}"


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError as e:
        raise NotFound(f"reading the network namespace {path}: {e.strerror}") from e
