"""Image, root file system and volumes of moved containers, for both roles (the port Bundles)."""

from __future__ import annotations

from pathlib import Path

from transship.agent.containers.instances import runtime_order
from transship.agent.journal.record import Record
from transship.agent.migration.ports import Trees
from transship.api.container import EmptyDirMedium
from transship.common.tasks import in_thread
from transship.runtime.containers import TREES, Runtime


class NodeBundles:
    """Joins records to the node's runtime."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def prepare(self, record: Record) -> str:
        return (await self._runtime.prepare(runtime_order(record.order))).digest

    async def mount(self, container: str) -> None:
        # an aborted restore removes the bundle: it must wait for a mount under way
        await in_thread(self._runtime.mount, container)

    async def remove(self, container: str) -> None:
        await self._runtime.remove(container)

    def home(self, container: str) -> Path:
        return self._runtime.layout.container(container)

    def trees(self, record: Record) -> Trees:
        home, log = self.home(record.id), self._runtime.layout.log(record.id)
        return Trees(
            names=tuple(name for name in TREES if (home / name).exists()),
            opaque=("shm", *in_memory(record)),
            log=log.name if log.exists() else None,
        )

    def mapped(self, record: Record, paths: frozenset[str]) -> frozenset[str]:
        """Where files that the container calls by these paths lie, relative to its home."""
        home = self.home(record.id)
        candidates = (name for path in paths for name in _candidates(record, path))
        return frozenset(name for name in candidates if (home / name).is_file())


def in_memory(record: Record) -> tuple[str, ...]:
    """The volumes that are a tmpfs."""
    return tuple(
        f"volumes/{resolved.volume.name}"
        for resolved in record.order.volumes
        if resolved.volume.secret is not None
        or (
            resolved.volume.empty_dir is not None
            and resolved.volume.empty_dir.medium is EmptyDirMedium.MEMORY
        )
    )


def _candidates(record: Record, path: str) -> list[str]:
    """Where the path may be: in the upper layer, or in a volume mounted at or above it."""
    candidates = [f"upper{path}"]
    for mount in record.order.container.volume_mounts:
        point = mount.mount_path.rstrip("/")
        if path.startswith(f"{point}/"):
            inner = "/".join(part for part in (mount.sub_path, path[len(point) + 1 :]) if part)
            candidates.append(f"volumes/{mount.name}/{inner}")
    return candidates
