"""What of a container CRIU must take as given: mounts and namespaces that are made by others.

CRIU dumps a bind mount or a network namespace by a name only, and asks for what has that name at
the restore. There runc answers, so a dump must name them as runc does (libcontainer/criu_linux.go).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from transship.common.errors import NotFound
from transship.runtime import devices
from transship.runtime.oci import Spec

NETWORK_KEY = "extRootNetNS"
DEVICES_KEY = "dev"  # of /dev, which a restore takes from layout.devices
MASK = "/dev/null"


def read_spec(bundle: Path) -> Spec:
    try:
        return Spec.model_validate_json((bundle / "config.json").read_bytes())
    except (OSError, ValidationError) as e:
        raise NotFound(f"reading the bundle {bundle}: {e}") from e


def externals(spec: Spec, *, root: Path) -> tuple[str, ...]:
    """CRIU's `external` options for a dump; `root` is the container's /, seen from outside."""
    return (*_binds(spec), *_devices(root), *_masks(spec, root=root), *_network(spec))


def _binds(spec: Spec) -> Iterator[str]:
    for mount in spec.mounts:
        if mount.type == "bind" or {"bind", "rbind"} & set(mount.options):
            yield f"mnt[{mount.destination}]:{mount.destination}"


def _devices(root: Path) -> Iterator[str]:
    """A /dev with nothing of the container's own: CRIU would run tar for it, 5 to 7 ms."""
    with contextlib.suppress(OSError):  # the process has ended: CRIU will say so
        if devices.untouched(root / "dev"):
            yield f"mnt[/dev]:{DEVICES_KEY}"


def _masks(spec: Spec, *, root: Path) -> Iterator[str]:
    """What runc hides: a file by binding /dev/null over it (a directory by a tmpfs)."""
    for path in spec.linux.masked_paths:
        hidden = root / path.lstrip("/")
        if hidden.exists() and not hidden.is_dir():
            yield f"mnt[{path}]:{MASK}"


def network(spec: Spec) -> Path | None:
    """The network namespace that was made for the container."""
    for namespace in spec.linux.namespaces:
        if namespace.type == "network" and namespace.path is not None:
            return Path(namespace.path)
    return None


def _network(spec: Spec) -> Iterator[str]:
    path = network(spec)
    if path is not None:
        yield f"net[{_inode(path)}]:{NETWORK_KEY}"


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError as e:
        raise NotFound(f"reading the network namespace {path}: {e.strerror}") from e
