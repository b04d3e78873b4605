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
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from loguru import logger

from transship.agent.journal.store import Journal
from transship.agentapi.node import Leftover
from transship.agentapi.states import RecordState
from transship.common.clock import Clock
from transship.common.errors import TransshipError
from transship.common.tasks import for_each

SWEEP_SECONDS = 60.0
MIN_AGE_SECONDS = 300.0  # no operation without a record takes as long
IMAGES_SECONDS = 3600.0
IN_HANDOVER = frozenset({RecordState.FROZEN, RecordState.HELD})


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
