"""Throttles a container by its CPU quota, so that a move can keep up with its writes.

The original quota is saved before it is changed, in a file that lives as long as the cgroup does
(/run): also a restarted agent can restore it exactly.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from loguru import logger
from pydantic import ValidationError

from transship.agentapi.message import Message
from transship.common.errors import NotFound, TransshipError
from transship.linux import cgroups, cpu_quota
from transship.linux.cpu_quota import Quota
from transship.runtime.layout import Layout

USE_SECONDS = 0.2
"""For how long the container's use of CPU time is measured, before it is slowed down."""
LEAST_CORES = 0.05
"""Assumed for a container that sleeps during the measurement."""


class _Before(Message):
    """The quota as it was, and the cores that the container used with it."""

    quota: str
    period: int
    cores: float


class CpuThrottle:
    """All throttled containers of this node (the port CpuThrottle)."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._folder = layout.runtime_dir / "slowed"

    async def slow(self, container: str, share: float) -> None:
        """Leave the container this share of the CPU time that it used. Raises NotFound."""
        before = self._before(container)
        if before is None:
            before = await self._measured(container)
            self._folder.mkdir(exist_ok=True)
            file = self._folder / container
            draft = file.with_suffix(".new")
            draft.write_text(before.model_dump_json(by_alias=True))
            draft.replace(file)
        wanted = cpu_quota.of_cores(before.cores * share)
        cpu_quota.write(self._layout.cgroup(container), wanted)
        logger.bind(container=container, share=share).info("container slowed down for its move")

    def release(self, container: str) -> None:
        """Restore the original quota; harmless where it was not slowed. Raises TransshipError."""
        before = self._before(container)
        if before is None:
            return
        # a cgroup that is gone took the quota along
        with suppress(NotFound):
            cpu_quota.write(self._layout.cgroup(container), Quota(before.quota, before.period))
            logger.bind(container=container).info("container runs at its own speed again")
        (self._folder / container).unlink(missing_ok=True)

    def release_all(self) -> None:
        """At the agent's start: no move is under way any more."""
        for file in self._folder.glob("*"):
            try:
                self.release(file.name)
            except (TransshipError, OSError) as e:
                logger.bind(container=file.name).error("container stays slowed down: {}", e)

    def _before(self, container: str) -> _Before | None:
        try:
            return _Before.model_validate_json((self._folder / container).read_text())
        except FileNotFoundError:
            return None
        except ValidationError as e:
            raise TransshipError(f"reading the original CPU quota of {container}: {e}") from e

    async def _measured(self, container: str) -> _Before:
        quota = cpu_quota.read(self._layout.cgroup(container))
        began = self._used(container)
        await asyncio.sleep(USE_SECONDS)
        cores = max((self._used(container) - began) / 1e9 / USE_SECONDS, LEAST_CORES)
        # the measurement can include one period's quota too many
        if quota.cores is not None:
            cores = min(cores, quota.cores)
        return _Before(quota=quota.quota, period=quota.period, cores=cores)

    def _used(self, container: str) -> int:
        used = cgroups.cpu_nanoseconds(cgroups.detect(), self._layout.cgroup(container))
        if used is None:
            raise NotFound(f"container {container} does not run")
        return used
