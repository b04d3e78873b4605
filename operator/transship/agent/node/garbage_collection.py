"""Removes what no record owns: what a crash, a bug or a person has left of containers on this node.

Everything that an agent makes is named by its container's id, and an id without a record is
nobody's: a record is written before the first thing is made for it, and goes after the last. Not
touched is whatever belongs to a record in quarantine, what has not been nobody's for a while, and
anything in which a program still runs: that is told, for a person to decide.

Images go as well once no container here needs them.
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
MIN_AGE_SECONDS = 300.0  # no operation without a record takes as long
IMAGES_SECONDS = 3600.0
IN_HANDOVER = frozenset({RecordState.FROZEN, RecordState.HELD})

ID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
NAMED = re.compile(rf"({ID})(?![0-9a-z])")
"""A placement's UID, which names everything of its container; other names are not ours."""

HELPERS = frozenset({"conmon", "criu", "runc", "rsync", "python3", "python"})
SIGKILL = 9

UNUSED_IMAGE_SECONDS = 3600.0
"""A container that is deleted and made anew, or that moves away and back, finds its image."""


@dataclass(frozen=True)
class ContainerLeftovers:
    """What there is of a container on this node. what: in words, such as "network namespace"."""

    what: tuple[str, ...]
    alive: bool = False  # a program of the container runs, or is frozen


class Leftovers(Protocol):
    """The node, as far as containers leave things on it: leftovers.NodeLeftovers."""

    def find(self) -> Mapping[str, ContainerLeftovers]:
        """By container id; blocks for some milliseconds."""
        ...

    async def remove(self, container_id: str) -> None:
        """All of it, never across a mount. Raises TransshipError."""
        ...

    async def prune_images(
        self, *, in_use: Collection[str], unreadable: Collection[str]
    ) -> tuple[str, ...]:
        """Delete the images of no container, if not in use by digest; gives back which.

        unreadable: containers whose records tell nothing, so that the node must know their images.
        Nothing is awaited before it is settled what goes. Raises TransshipError.
        """
        ...


def unowned(
    found: Mapping[str, ContainerLeftovers], *, owned: frozenset[str]
) -> dict[str, ContainerLeftovers]:
    return {key: each for key, each in found.items() if key not in owned}


class GarbageCollector:
    """One per agent. leftovers: what it would remove, or leaves to a person, as last seen."""

    def __init__(self, leftovers: Leftovers, *, journal: Journal, clock: Clock) -> None:
        self.leftovers: dict[str, ContainerLeftovers] = {}
        self._leftovers, self._journal, self._clock = leftovers, journal, clock
        self._since: dict[str, float] = {}
        self._images_due = -math.inf
        self._begun = False

    async def run(self) -> None:
        """When an agent starts nothing is under way: what is nobody's needs no age.

        To be begun anew after a failure: that is no start.
        """
        if not self._begun:
            self._begun = True
            await self.sweep(min_age_seconds=0.0)
        while True:
            await self.prune_images()
            await asyncio.sleep(SWEEP_SECONDS)
            await self.sweep(min_age_seconds=MIN_AGE_SECONDS)

    async def sweep(self, *, min_age_seconds: float) -> None:
        found = await asyncio.to_thread(self._leftovers.find)
        # the journal is read after the node: what was made meanwhile has its record by now
        self.leftovers = unowned(found, owned=self._owned())
        now = self._clock.monotonic()
        self._since = {key: self._since.get(key, now) for key in self.leftovers}
        due = [
            container
            for container, remains in self.leftovers.items()
            if not remains.alive and now - self._since[container] >= min_age_seconds
        ]
        await for_each(due, self._remove, doing="removing leftovers")

    async def prune_images(self) -> None:
        """Now and then, and not beside a handover: deleting keeps the disk busy."""
        records, now = self._journal.all(), self._clock.monotonic()
        if now < self._images_due or any(each.state in IN_HANDOVER for each in records):
            return
        self._images_due = now + IMAGES_SECONDS
        digests = {d for each in records for d in (each.image_digest, each.order.image_digest) if d}
        try:
            removed = await self._leftovers.prune_images(
                in_use=digests, unreadable=frozenset(self._journal.quarantined)
            )
        except (TransshipError, OSError, ValueError) as e:
            logger.bind(cause=str(e)).warning("images that are not needed stay")
            return
        if removed:
            logger.bind(images=removed).info("images that no container needs are removed")

    def report(self) -> tuple[Leftover, ...]:
        return tuple(
            Leftover(container=container, what=each.what, alive=each.alive)
            for container, each in sorted(self.leftovers.items())
        )

    def _owned(self) -> frozenset[str]:
        """A record in quarantine has promised something, nobody knows what."""
        return frozenset({r.id for r in self._journal.all()} | set(self._journal.quarantined))

    async def _remove(self, container: str) -> None:
        if container in self._owned():  # ordered just now
            return
        remains = self.leftovers[container]
        log = logger.bind(container=container, what=", ".join(remains.what))
        self._journal.being_removed.add(container)
        try:
            await self._leftovers.remove(container)
        except (TransshipError, OSError) as e:
            log.bind(cause=str(e)).warning("leftovers cannot be removed")
            return
        finally:
            self._journal.being_removed.discard(container)
        self.leftovers.pop(container, None)
        log.info("leftovers removed")


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
