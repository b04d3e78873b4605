"""Garbage collection: leftovers of containers without a record, and images that nobody needs.

Crashes, bugs and people leave things behind. Everything that an agent makes for a container carries
the container's id. The record is written before the first of them and deleted after the last, so
what carries an id without a record is a leftover.

Some leftovers stay: those of a record in quarantine, those that are younger than MIN_AGE_SECONDS,
and those in which a process still runs. The last are reported, and a person decides.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loguru import logger

from transship.agent.containers.instances import NodeInstances
from transship.agent.journal.store import Journal
from transship.agentapi.node import Leftover
from transship.agentapi.states import RecordState
from transship.common.clock import Clock
from transship.common.errors import Refused, TransshipError
from transship.common.tasks import for_each
from transship.linux import cgroups, pidfds
from transship.runtime.layout import Layout

SWEEP_SECONDS = 60.0
# no operation without a record takes as long
MIN_AGE_SECONDS = 300.0
IMAGES_SECONDS = 3600.0
IN_HANDOVER = frozenset({RecordState.FROZEN, RecordState.HELD})

ID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
NAMED = re.compile(rf"({ID})(?![0-9a-z])")
"""A placement's UID, which everything of its container carries in its name."""

HELPERS = frozenset({"conmon", "criu", "runc", "rsync", "python3", "python"})
SIGKILL = 9

UNUSED_IMAGE_SECONDS = 3600.0
"""So that a container that is created again, or that returns, still finds its image."""


@dataclass(frozen=True)
class ContainerLeftovers:
    """What this node has of a container. `what`: descriptions, such as "files" or "network"."""

    what: tuple[str, ...]
    alive: bool = False  # a process of the container runs or is frozen


class Leftovers(Protocol):
    """What containers have on the node: NodeLeftovers, or a fake in tests."""

    def find(self) -> Mapping[str, ContainerLeftovers]:
        """Everything that containers have here, by container id; blocks for some milliseconds."""
        ...

    async def remove(self, container_id: str) -> None:
        """Remove all of a container, never across a mount. Raises TransshipError."""
        ...

    async def prune_images(
        self, *, in_use: Collection[str], unreadable: Collection[str]
    ) -> tuple[str, ...]:
        """Delete images that no container uses and that are not in_use. Returns their digests.

        unreadable: containers without a readable record, whose images the node itself must know.
        Never awaits before the images to delete are chosen. Raises TransshipError.
        """
        ...


class GarbageCollector:
    """One per agent. `leftovers`: what the last sweep found and has not removed."""

    def __init__(self, leftovers: Leftovers, *, journal: Journal, clock: Clock) -> None:
        self.leftovers: dict[str, ContainerLeftovers] = {}
        self._leftovers, self._journal, self._clock = leftovers, journal, clock
        self._since: dict[str, float] = {}
        self._images_due = -math.inf
        self._begun = False

    async def run(self) -> None:
        """Sweep for ever. The first sweep removes leftovers of any age: no operation is under way.

        Called again after an error, it continues with sweeps that wait for MIN_AGE_SECONDS.
        """
        if not self._begun:
            self._begun = True
            await self.sweep(min_age_seconds=0.0)
        while True:
            await self.prune_images()
            await asyncio.sleep(SWEEP_SECONDS)
            await self.sweep(min_age_seconds=MIN_AGE_SECONDS)

    async def sweep(self, *, min_age_seconds: float) -> None:
        present = await asyncio.to_thread(self._leftovers.find)
        # the journal is read after the node: what was created meanwhile has its record by now
        owned, now = self._owned(), self._clock.monotonic()
        self.leftovers = {
            container: leftovers
            for container, leftovers in present.items()
            if container not in owned
        }
        self._since = {container: self._since.get(container, now) for container in self.leftovers}
        due = [
            container
            for container, leftovers in self.leftovers.items()
            if not leftovers.alive and now - self._since[container] >= min_age_seconds
        ]
        await for_each(due, self._remove, doing="removing leftovers")

    async def prune_images(self) -> None:
        """Prune if it is due and no handover is under way: deleting keeps the disk busy."""
        records, now = self._journal.all(), self._clock.monotonic()
        if now < self._images_due or any(record.state in IN_HANDOVER for record in records):
            return
        self._images_due = now + IMAGES_SECONDS
        digests = {record.image_digest for record in records}
        digests |= {record.order.image_digest for record in records}
        in_use = {digest for digest in digests if digest}
        try:
            removed = await self._leftovers.prune_images(
                in_use=in_use, unreadable=frozenset(self._journal.quarantined)
            )
        except (TransshipError, OSError, ValueError) as e:
            logger.bind(cause=str(e)).warning("pruning images failed")
            return
        if removed:
            logger.bind(images=removed).info("unused images removed")

    def report(self) -> tuple[Leftover, ...]:
        return tuple(
            Leftover(container=container, what=leftovers.what, alive=leftovers.alive)
            for container, leftovers in sorted(self.leftovers.items())
        )

    def _owned(self) -> frozenset[str]:
        """Containers with a record, also in quarantine: nobody knows what that one promised."""
        return frozenset({r.id for r in self._journal.all()} | set(self._journal.quarantined))

    async def _remove(self, container: str) -> None:
        if container in self._owned():  # it was ordered a moment ago
            return
        leftovers = self.leftovers[container]
        log = logger.bind(container=container, what=", ".join(leftovers.what))
        self._journal.being_removed.add(container)
        try:
            await self._leftovers.remove(container)
        except (TransshipError, OSError) as e:
            log.bind(cause=str(e)).warning("removing leftovers failed")
            return
        finally:
            self._journal.being_removed.discard(container)
        self.leftovers.pop(container, None)
        log.info("leftovers removed")


@dataclass(frozen=True)
class NodeLeftovers:
    """Finds and removes what agents have created: files, cgroups, networks and processes."""

    instances: NodeInstances

    @property
    def _layout(self) -> Layout:
        return self.instances.runtime.layout

    def find(self) -> dict[str, ContainerLeftovers]:
        present: dict[str, list[str]] = defaultdict(list)
        for container, description in self._descriptions():
            if description not in present[container]:
                present[container].append(description)
        return {
            container: ContainerLeftovers(tuple(what), alive=bool(self._members(container)))
            for container, what in present.items()
        }

    async def remove(self, container_id: str) -> None:
        for pid in self._helpers().get(container_id, ()):
            with suppress(ProcessLookupError), pidfds.handle(pid) as process:
                if pid in self._helpers().get(container_id, ()):  # the pid may be reused by now
                    pidfds.send(process, SIGKILL)
        for file in self._files(container_id):
            file.unlink(missing_ok=True)
        await self.instances.remove(container_id)

    async def prune_images(
        self, *, in_use: Collection[str], unreadable: Collection[str]
    ) -> tuple[str, ...]:
        runtime = self.instances.runtime
        if unknown := set(unreadable).difference(runtime.containers()):
            raise Refused(f"the images of {', '.join(sorted(unknown))} are not known")
        return await runtime.prune_images(in_use=in_use, unused_seconds=UNUSED_IMAGE_SECONDS)

    def _descriptions(self) -> Iterator[tuple[str, str]]:
        """Each with the id of its container."""
        for folder, description in self._folders().items():
            yield from ((container, description) for container, _ in _named(folder))
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
        """Single files, which the removal of a container leaves behind."""
        layout = self._layout
        named = (*_named(layout.runtime_dir), *_named(layout.exits), *_named(layout.sockets))
        return [path for container, path in named if container == container_id and _is_file(path)]

    def _networks(self) -> set[str]:
        return {name for name in self.instances.network.list() if NAMED.fullmatch(name)}

    def _cgroups(self) -> set[str]:
        paths = self.instances.runtime.hierarchies.paths(self._layout.cgroup_parent)
        return {container for path in paths for container, _ in _named(path)}

    def _members(self, container_id: str) -> tuple[int, ...]:
        runtime = self.instances.runtime
        return cgroups.members(runtime.hierarchies, self._layout.cgroup(container_id))

    def _helpers(self) -> dict[str, list[int]]:
        """The processes that agents start beside containers and move to conmon's cgroup."""
        hierarchies = self.instances.runtime.hierarchies
        helpers: dict[str, list[int]] = defaultdict(list)
        for pid in cgroups.members(hierarchies, self._layout.conmon_cgroup):
            for container in _containers_of(pid):
                helpers[container].append(pid)
        return helpers


def _named(folder: Path) -> Iterator[tuple[str, Path]]:
    """The entries of a folder that carry a container's id, each with that id."""
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            if (match := NAMED.match(path.name)) is not None:
                yield match[1], path


def _is_file(path: Path) -> bool:
    return not path.is_symlink() and (path.is_file() or path.is_socket() or path.is_fifo())


def _containers_of(pid: int) -> set[str]:
    """The containers that a helper works for, from its command line and its standard output."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
        output = str(Path(f"/proc/{pid}/fd/1").readlink())
    except OSError:
        return set()
    if Path(command.split("\0")[0]).name not in HELPERS:
        return set()
    return set(re.findall(ID, f"{command} {output}"))
