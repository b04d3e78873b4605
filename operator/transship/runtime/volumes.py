"""Provides volumes: directories of the node that are bind-mounted into a container.

Volumes that move with the container are in its own volumes directory: emptyDir, and configMap and
secret as they were at the start. hostPath and nfs volumes do not move and are elsewhere. A hostPath
must not reach what belongs to the agent. The agent may run in a Pod: the node's file system is
mounted at layout.host_root then, and a path is resolved there, symbolic links included.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from transship.api.container import EmptyDir, EmptyDirMedium, NfsVolume, Volume, VolumeMount
from transship.api.quantity import bytes_of
from transship.api.reasons import Reason
from transship.common.errors import InvalidInput, TransshipError
from transship.common.processes import run
from transship.common.threads import may_hang
from transship.linux import mounts
from transship.runtime.layout import Layout

SHARE_TIMEOUT_SECONDS = 20.0
"""For a path on a share: as long as its server takes after its own restart, with luck."""
MOUNT_TIMEOUT_SECONDS = 30.0
"""For an NFS server that does not answer."""
SHM_BYTES = 64 << 20
"""Docker's default."""

TOKEN_DIRECTORIES = (
    # of the agent's own Pod
    Path("/var/run/secrets/kubernetes.io"),
    # of every Pod of the node
    Path("/var/lib/kubelet/pods"),
)


@dataclass(frozen=True)
class Bind:
    """One bind mount of the container."""

    source: Path
    destination: str
    read_only: bool = False


@dataclass(frozen=True)
class VolumeFile:
    """A file of a configMap or secret volume."""

    path: str
    content: bytes
    mode: int = 0o644


@dataclass(frozen=True)
class OrderedVolume:
    volume: Volume
    files: tuple[VolumeFile, ...] = ()


async def provide(
    ordered: Sequence[OrderedVolume], *, container_id: str, layout: Layout
) -> dict[str, Path]:
    """Create and mount the volumes that are missing; returns their directories by name."""
    _shm(layout.shm(container_id))
    return {
        each.volume.name: await _provide(each, container_id=container_id, layout=layout)
        for each in ordered
    }


def _shm(path: Path) -> None:
    _tmpfs(path, options=f"mode=1777,size={SHM_BYTES}")


def renew_shm(path: Path) -> None:
    """Replace /dev/shm by an empty one, for a new start."""
    mounts.unmount(path)
    _shm(path)


async def _provide(ordered: OrderedVolume, *, container_id: str, layout: Layout) -> Path:
    volume = ordered.volume
    path = layout.volumes(container_id) / volume.name
    if volume.host_path is not None:
        named = volume.host_path.path
        return await may_hang(
            partial(find_host_path, named, layout=layout),
            doing=f"looking for the hostPath {named}",
            timeout_seconds=SHARE_TIMEOUT_SECONDS,
        )
    if volume.nfs is not None:
        return await _nfs(volume.nfs, path=layout.shares(container_id) / volume.name)
    if volume.empty_dir is not None:
        return _empty_dir(volume.empty_dir, path=path)
    if volume.secret is not None:
        # secrets are never on a disk
        _tmpfs(path, options="mode=755")
    path.mkdir(parents=True, exist_ok=True)
    for file in ordered.files:
        _write(file, root=path)
    return path


def find_host_path(path: str, *, layout: Layout) -> Path:
    """Resolve a hostPath; it blocks while the server of a share is down. Raises InvalidInput."""
    resolved = mounts.inside(layout.host_root, path)
    refuse_agent_paths(resolved, layout=layout, named=path)
    if not resolved.exists():
        raise InvalidInput(
            f"hostPath {path} does not exist on this node", reason=Reason.HOST_PATH_NOT_FOUND
        )
    return resolved


def refuse_agent_paths(path: Path, *, layout: Layout, named: str) -> None:
    """Raise InvalidInput for a path that is, contains or is in a path of the agent."""
    for own in (layout.state_dir, layout.runtime_dir, *layout.secrets, *TOKEN_DIRECTORIES):
        if _reaches(path, own, root=layout.host_root):
            raise InvalidInput(
                f"hostPath {named} would reach {own}, which is the agent's",
                reason=Reason.HOST_PATH_REFUSED,
                hint=Reason.HOST_PATH_REFUSED.hint,
            )


def _reaches(path: Path, own: Path, *, root: Path) -> bool:
    """Compare names, and also inodes, since the node may have mounted either path twice."""
    place = mounts.inside(root, str(own))
    if path.is_relative_to(place) or place.is_relative_to(path):
        return True
    holders = _identities((place, *place.parents), below=root)
    around = _identities((path, *path.parents), below=root)
    return bool(_identities((path,)) & holders or _identities((own, place)) & around)


def _identities(paths: Iterable[Path], *, below: Path | None = None) -> set[tuple[int, int]]:
    identities = set()
    for path in paths:
        if (below is None or path.is_relative_to(below)) and path.exists():
            status = path.stat()
            identities.add((status.st_dev, status.st_ino))
    return identities


def _empty_dir(empty: EmptyDir, *, path: Path) -> Path:
    if empty.medium == EmptyDirMedium.MEMORY:
        size = "" if empty.size_limit is None else f",size={bytes_of(empty.size_limit)}"
        _tmpfs(path, options=f"mode=777{size}")
    elif not path.exists():
        path.mkdir(parents=True)
        # as in a Pod, any user of the container may write
        path.chmod(0o777)
    return path


def _tmpfs(path: Path, *, options: str) -> None:
    path.mkdir(parents=True, exist_ok=True)
    if mounts.is_mount_point(path):
        return
    try:
        mounts.mount(
            "tmpfs", path, kind="tmpfs", flags=mounts.MS_NOSUID | mounts.MS_NODEV, options=options
        )
    except OSError as e:
        raise TransshipError(
            f"mounting a tmpfs on {path}: {e.strerror}", reason=Reason.VOLUME_MOUNT_FAILED
        ) from e


async def _nfs(volume: NfsVolume, *, path: Path) -> Path:
    if shutil.which("mount.nfs") is None:
        raise TransshipError(
            "an nfs volume needs mount.nfs, which this node does not have",
            reason=Reason.VOLUME_MOUNT_FAILED,
            hint="install nfs-common (Debian) or nfs-utils on the node",
        )
    # stat(2) of the share itself would wait for its server
    if path.parent.resolve() / path.name in mounts.mount_points():
        return path
    path.mkdir(parents=True, exist_ok=True)
    source = f"{volume.server}:{volume.path}"
    try:
        await run(["mount", "-t", "nfs", source, path], timeout_seconds=MOUNT_TIMEOUT_SECONDS)
    except TransshipError as e:
        raise TransshipError(f"mounting {source}: {e}", reason=Reason.VOLUME_MOUNT_FAILED) from e
    return path


def _write(file: VolumeFile, *, root: Path) -> None:
    path = root / file.path
    if not path.resolve().is_relative_to(root.resolve()):
        raise InvalidInput(f"the file {file.path!r} would lie outside its volume")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.content)
    path.chmod(file.mode)


def binds(
    wanted: Sequence[VolumeMount], *, volumes: Mapping[str, Path], writable: frozenset[str]
) -> tuple[Bind, ...]:
    """Resolve the volumeMounts; volumes that are not in `writable` are mounted read-only."""
    return tuple(
        Bind(
            _below(_named(mount, volumes=volumes), sub_path=mount.sub_path),
            destination=mount.mount_path,
            read_only=mount.read_only or mount.name not in writable,
        )
        for mount in wanted
    )


def _named(mount: VolumeMount, *, volumes: Mapping[str, Path]) -> Path:
    if mount.name not in volumes:
        raise InvalidInput(
            f"spec.container.volumeMounts names the volume {mount.name!r}",
            hint=f"spec.volumes has: {', '.join(sorted(volumes)) or 'none'}",
        )
    return volumes[mount.name]


def _below(root: Path, *, sub_path: str | None) -> Path:
    """Resolve a subPath within the volume, and create it when missing, as in a Pod."""
    if not sub_path:
        return root
    path = mounts.inside(root, sub_path)
    if not path.exists():
        path.mkdir(parents=True)
    return path


async def withdraw(*, container_id: str, layout: Layout) -> None:
    """Unmount what `provide` has mounted; the directories stay."""
    own = (layout.volumes(container_id), layout.shm(container_id))
    for point in (point for path in own for point in mounts.mounts_below(path)):
        mounts.unmount(point)
    for point in mounts.mounts_below(layout.shares(container_id)):
        # in a child process with a deadline: without its server, umount(2) never returns
        await run(["umount", point], timeout_seconds=MOUNT_TIMEOUT_SECONDS)
    with contextlib.suppress(FileNotFoundError):
        for share in layout.shares(container_id).iterdir():
            share.rmdir()
