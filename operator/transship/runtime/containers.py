"""Starts, stops, inspects and removes the containers of a node: the package's interface.

It decides nothing; the agent knows what should run. The agent also makes sure that calls for one
container do not overlap. Dump and restore are in transship.criu.
"""

from __future__ import annotations

import asyncio
import itertools
import signal as signals
from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property

from loguru import logger

from transship.api.reasons import Reason
from transship.common.errors import DeadlineExceeded, NotFound, TransshipError
from transship.linux import cgroups, mounts, pidfds
from transship.runtime import conmon, exits, orders, rootfs, volumes
from transship.runtime.image_store import ImageStore
from transship.runtime.layout import Layout
from transship.runtime.orders import Order, Prepared
from transship.runtime.runc import Executed, Runc, Status

KILL_TIMEOUT_SECONDS = 30.0
"""A task in an uninterruptible call (a dead NFS server) does not die at once."""
EXIT_FILE_TIMEOUT_SECONDS = 10.0
"""conmon empties the pipes before it writes the exit code."""

TREES = ("upper", "etc", "volumes", "shm")
"""The directories below Layout.container(id) that move with a container."""


class State(StrEnum):
    """CREATED: runc has created the container, and the start was interrupted before its program."""

    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"
    ABSENT = "absent"


@dataclass(frozen=True)
class Observed:
    """The state of a container, from the kernel and conmon's files.

    exit_code is None for a stopped container whose conmon was killed before it wrote the code.
    """

    state: State
    pid: int | None = None
    exit_code: int | None = None
    exited_at: datetime | None = None
    oom_killed: bool = False


class Runtime:
    """All containers of this node."""

    def __init__(self, layout: Layout, *, images: ImageStore) -> None:
        self.layout = layout
        self.images = images
        self.runc = Runc(layout.runc_root)
        self._executions = itertools.count()

    @cached_property
    def hierarchies(self) -> cgroups.Hierarchies:
        return cgroups.detect()

    @cached_property
    def overlay_features(self) -> str:
        return rootfs.features(self.layout.state_dir / "overlay-trial")

    # Preparation and start.

    async def prepare(self, order: Order) -> Prepared:
        """Provide image, volumes and bundle, but no mounted overlay. Can be repeated."""
        # the trial mount must not happen inside a freeze
        await asyncio.to_thread(lambda: self.overlay_features)
        image = await self.images.pull(order.container.image, digest=order.digest)
        # until prepared.json names the image
        with self.images.held(image.digest):
            return await orders.write(order, image=image, layout=self.layout)

    def mount(self, container_id: str) -> None:
        """Mount the root file system (1 ms); on a target, after the last file has arrived."""
        rootfs.mount(self._overlay(container_id), features=self.overlay_features)

    async def unmount(self, container_id: str) -> None:
        await asyncio.to_thread(rootfs.unmount, self._overlay(container_id))

    def _overlay(self, container_id: str) -> rootfs.Overlay:
        digest = orders.load(self.layout, container_id).digest
        image = self.images.find(digest)
        if image is None:
            raise NotFound(f"the image {digest} is not on this node any more")
        return orders.overlay(self.layout, container_id=container_id, image_rootfs=image.rootfs)

    async def start(self, container_id: str) -> None:
        """Start a prepared container, unless it runs; start it again if it has ended."""
        observed = self.inspect(container_id)
        if observed.state is State.RUNNING and observed.pid is not None:
            return
        prepared = orders.load(self.layout, container_id)
        await self._clear(container_id)
        cgroups.create(self.hierarchies, self.layout.cgroup_parent)
        volumes.renew_shm(self.layout.shm(container_id))
        self.mount(container_id)
        try:
            pid = await conmon.launch(
                self.layout, container_id=container_id, console=prepared.console
            )
            await self.runc.start(container_id)
        except TransshipError as e:
            await self._clear(container_id)
            raise _start_failed(e) from e
        logger.bind(container=container_id, pid=pid).info("container started")

    # End.

    async def stop(
        self, container_id: str, *, grace_seconds: float, signal: str | None = None
    ) -> Observed:
        """Send the stop signal (or `signal`), and kill the container after the grace period."""
        observed = self.inspect(container_id)
        if observed.state not in (State.RUNNING, State.CREATED) or observed.pid is None:
            return observed
        wanted = pidfds.signal_number(signal or orders.load(self.layout, container_id).stop_signal)
        with pidfds.handle(observed.pid) as process:
            pidfds.send(process, wanted)
            cgroups.thaw(self.hierarchies, self.layout.cgroup(container_id))
            if not await pidfds.ended(process, timeout_seconds=grace_seconds):
                await self._kill(container_id, process=process)
        await self.await_exit(container_id)
        logger.bind(container=container_id).info("container stopped")
        return self.inspect(container_id)

    async def destroy(self, container_id: str) -> None:
        """Kill a container and forget its run; a frozen or half restored copy does not run."""
        await self.kill(container_id)
        await self.await_exit(container_id)
        await self._clear(container_id)

    async def kill(self, container_id: str) -> None:
        """Kill the instance that runs at the time of the call.

        It is killed before the first await. To the supervisor it is an exit like any other.
        """
        observed = self.inspect(container_id)
        with pidfds.handle(
            observed.pid if observed.state is not State.STOPPED else None
        ) as process:
            await self._kill(container_id, process=process)

    async def _kill(self, container_id: str, *, process: int | None) -> None:
        cgroups.kill(self.hierarchies, self.layout.cgroup(container_id))
        pidfds.send(process, signals.SIGKILL)
        if not await pidfds.ended(process, timeout_seconds=KILL_TIMEOUT_SECONDS):
            raise DeadlineExceeded(
                f"killing the container {container_id}: not gone in {KILL_TIMEOUT_SECONDS:g} s"
            )

    async def await_exit(self, container_id: str) -> None:
        """Wait until conmon has written the exit code of a container whose process 1 has ended."""
        try:
            async with asyncio.timeout(EXIT_FILE_TIMEOUT_SECONDS):
                await exits.written(self.layout, container_id)
        except TimeoutError:
            logger.bind(container=container_id).warning("conmon left no exit code: killed")
            conmon.kill(self.layout, container_id)

    async def _clear(self, container_id: str) -> None:
        """Remove what an earlier run has left: processes, runc's state, conmon's files."""
        cgroups.kill(self.hierarchies, self.layout.cgroup(container_id))
        if self.runc.state(container_id).status is not Status.ABSENT:
            await self.runc.delete(container_id)
        conmon.forget(self.layout, container_id=container_id)

    async def remove(self, container_id: str) -> None:
        """Kill the container, unmount and delete all of it. Also for parts of one, and for none."""
        await self.destroy(container_id)
        layout = self.layout
        merged = layout.rootfs(container_id)
        foreign = (layout.images(container_id), layout.runc_root / container_id)
        for point in (point for path in foreign for point in mounts.mounts_below(path)):
            # a failed restore of CRIU leaves some
            mounts.unmount(point)
        # in a thread: the unmount writes the dirty pages of the upper layer
        await asyncio.to_thread(mounts.unmount_patiently, merged)
        await volumes.withdraw(container_id=container_id, layout=layout)
        for path in (layout.container(container_id), layout.persist(container_id), *foreign):
            await asyncio.to_thread(mounts.remove_tree, path)
        for cgroup in (layout.cgroup(container_id), layout.criu_cgroup(container_id)):
            cgroups.remove(self.hierarchies, cgroup)
        logger.bind(container=container_id).info("container removed")

    async def prune_images(
        self, *, in_use: Collection[str] = (), unused_seconds: float = 0.0
    ) -> tuple[str, ...]:
        """Delete images that no container of this node uses and that `in_use` does not have.

        Returns their digests. They are chosen before the first await, so that no container is
        prepared in between.
        """
        own = {orders.load(self.layout, name).digest for name in self.containers()}
        return await self.images.prune({*own, *in_use}, unused_seconds=unused_seconds)

    # Inspection.

    def containers(self) -> tuple[str, ...]:
        """Return the ids of all prepared containers."""
        paths = self.layout.all_containers.glob("*/prepared.json")
        return tuple(sorted(path.parent.name for path in paths))

    def inspect(self, container_id: str) -> Observed:
        """Return the state now; it takes less than 1 ms, for a few files."""
        recorded = self.runc.state(container_id)
        state = State(recorded.status.value)
        if state is State.STOPPED or state is State.ABSENT:
            return _observed_end(state, exits.find(self.layout, container_id))
        return Observed(state, pid=recorded.pid)

    def watch_exits(self) -> AsyncGenerator[exits.Exit, None]:
        """Yield every exit once: those so far, then each new one."""
        return exits.watch(self.layout)

    async def execute(
        self, container_id: str, argv: Sequence[str], *, timeout_seconds: float
    ) -> Executed:
        """Run a command in the container. None may run during a dump."""
        pidfile = self.layout.persist(container_id) / f"exec-{next(self._executions)}"
        return await self.runc.execute(
            container_id, argv, pidfile=pidfile, timeout_seconds=timeout_seconds
        )


def _observed_end(state: State, ended: exits.Exit | None) -> Observed:
    if ended is None:
        return Observed(state)
    return Observed(state, exit_code=ended.code, exited_at=ended.time, oom_killed=ended.oom_killed)


def _start_failed(cause: TransshipError) -> TransshipError:
    if cause.reason == Reason.CONTAINER_START_FAILED:
        return cause
    return TransshipError(
        f"starting a container: {cause}",
        reason=Reason.CONTAINER_START_FAILED,
        hint=Reason.CONTAINER_START_FAILED.hint,
    )
