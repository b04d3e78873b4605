"""What of a container CRIU must take as given: mounts and namespaces that are made by others.

CRIU dumps a bind mount's source or a network namespace only by a name, and gets them by that name at
the restore. runc gives them at a restore, so a dump must name them as runc does (its
libcontainer/criu_linux.go).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from transship.common.errors import NotFound
from transship.runtime.oci import Spec

NETWORK_KEY = "extRootNetNS"
MASK = "/dev/null"


def read_spec(bundle: Path) -> Spec:
    try:
        return Spec.model_validate_json((bundle / "config.json").read_bytes())
    except (OSError, ValidationError) as e:
        raise NotFound(f"reading the bundle {bundle}: {e}") from e


def externals(spec: Spec, *, root: Path) -> tuple[str, ...]:
    """CRIU's `external` options for a dump; `root` is the container's /, seen from outside."""
    return (*_binds(spec), *_masks(spec, root=root), *_network(spec))


def _binds(spec: Spec) -> Iterator[str]:
    for mount in spec.mounts:
        if mount.type == "bind" or {"bind", "rbind"} & set(mount.options):
            yield f"mnt[{mount.destination}]:{mount.destination}"


def _masks(spec: Spec, *, root: Path) -> Iterator[str]:
    """runc hides a file by binding /dev/null over it, and a directory by a tmpfs."""
    for path in spec.linux.masked_paths:
        hidden = root / path.lstrip("/")
        if hidden.exists() and not hidden.is_dir():
            yield f"mnt[{path}]:{MASK}"


def _network(spec: Spec) -> Iterator[str]:
    for namespace in spec.linux.namespaces:
        if namespace.type == "network" and namespace.path is not None:
            yield f"net[{Path(namespace.path).stat().st_ino}]:{NETWORK_KEY}"
