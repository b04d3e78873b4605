"""Where containers leave things on a node, and how these are removed (the janitor's Leftovers)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from transship.agent.containers.instances import NodeInstances
from transship.agent.node.garbage_collection import ContainerLeftovers
from transship.common.errors import Refused
from transship.linux import cgroups, pidfds
from transship.runtime.layout import Layout

ID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
NAMED = re.compile(rf"({ID})(?![0-9a-z])")
"""A placement's UID, which names everything of its container; other names are not ours."""

HELPERS = frozenset({"conmon", "criu", "runc", "rsync", "python3", "python"})
SIGKILL = 9

UNUSED_IMAGE_SECONDS = 3600.0
"""A container that is deleted and made anew, or that moves away and back, finds its image."""


@dataclass(frozen=True)
class NodeLeftovers:
    """Looks only where agents put things: the layout, its cgroups, the node's links."""

    instances: NodeInstances

    @property
    def _layout(self) -> Layout:
        return self.instances.runtime.layout

    def find(self) -> dict[str, ContainerLeftovers]:
        found: dict[str, list[str]] = defaultdict(list)
        for container, what in self._things():
            if what not in found[container]:
                found[container].append(what)
        return {
            container: ContainerLeftovers(tuple(what), alive=bool(self._members(container)))
            for container, what in found.items()
        }

    async def remove(self, container_id: str) -> None:
        for pid in self._helpers().get(container_id, ()):
            with suppress(ProcessLookupError), pidfds.handle(pid) as process:
                if pid in self._helpers().get(container_id, ()):  # the pid may be another's by now
                    pidfds.send(process, SIGKILL)
        for file in self._files(container_id):
            file.unlink(missing_ok=True)
        await self.instances.remove(container_id)

    async def prune_images(
        self, *, in_use: Collection[str], unreadable: Collection[str]
    ) -> tuple[str, ...]:
        runtime = self.instances.runtime
        if unknown := set(unreadable).difference(runtime.containers()):
            raise Refused(f"nobody knows the images of {', '.join(sorted(unknown))}")
        return await runtime.prune_images(in_use=in_use, unused_seconds=UNUSED_IMAGE_SECONDS)

    def _things(self) -> Iterator[tuple[str, str]]:
        for folder, what in self._folders().items():
            yield from ((container, what) for container, _ in _named(folder))
        yield from ((container, "network") for container in self._networks())
        yield from ((container, "cgroup") for container in self._cgroups())
        for container, pids in self._helpers().items():
            yield from ((container, f"process {pid}") for pid in pids)

    def _folders(self) -> dict[Path, str]:
        layout = self._layout
        return {
            layout.all_containers: "files",
            layout.runc_root: "runc's state",
            layout.persist("x").parent: "conmon's state",
            layout.images("x").parent: "images",
            layout.exits: "exit code",
            layout.sockets: "sockets",
            layout.runtime_dir: "temporary files",
        }

    def _files(self, container_id: str) -> list[Path]:
        """Single files, which no removal of a container thinks of."""
        layout = self._layout
        found = (*_named(layout.runtime_dir), *_named(layout.exits), *_named(layout.sockets))
        return [path for container, path in found if container == container_id and _is_file(path)]

    def _networks(self) -> set[str]:
        return {name for name in self.instances.network.list() if NAMED.fullmatch(name)}

    def _cgroups(self) -> set[str]:
        paths = self.instances.runtime.hierarchies.paths(self._layout.cgroup_parent)
        return {container for path in paths for container, _ in _named(path)}

    def _members(self, container_id: str) -> tuple[int, ...]:
        runtime = self.instances.runtime
        return cgroups.members(runtime.hierarchies, self._layout.cgroup(container_id))

    def _helpers(self) -> dict[str, list[int]]:
        """Processes that agents start beside containers, and move to conmon's cgroup."""
        hierarchies = self.instances.runtime.hierarchies
        found: dict[str, list[int]] = defaultdict(list)
        for pid in cgroups.members(hierarchies, self._layout.conmon_cgroup):
            for container in _containers_of(pid):
                found[container].append(pid)
        return found


def _named(folder: Path) -> Iterator[tuple[str, Path]]:
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            if (match := NAMED.match(path.name)) is not None:
                yield match[1], path


def _is_file(path: Path) -> bool:
    return not path.is_symlink() and (path.is_file() or path.is_socket() or path.is_fifo())


def _containers_of(pid: int) -> set[str]:
    """By its words, or by where it writes: the container that a helper works for."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
        output = str(Path(f"/proc/{pid}/fd/1").readlink())
    except OSError:
        return set()
    if Path(words.split("\0")[0]).name not in HELPERS:
        return set()
    return set(re.findall(ID, f"{words} {output}"))
