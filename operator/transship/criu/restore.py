"""Restoring a container held: complete, but not allowed to run before `resume`.

What holds after `Restorer.restore` returned: the container is frozen, nothing of it has run, and it
stays so whoever dies. After any failure nothing of it is left but its files and images.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from loguru import logger

from transship.api.reasons import Reason
from transship.common.errors import TransshipError
from transship.common.idle_timeout import Progress, idle_timeout
from transship.criu import externals, failures, options
from transship.criu import worker as criu
from transship.criu.discard import discard
from transship.criu.failures import CheckpointFailed
from transship.criu.gate.client import GateConnection, restore_setup
from transship.criu.gate.messages import MessageKind
from transship.criu.options import Pages
from transship.linux import cgroups
from transship.linux.freezer import Freezer, FreezerState, freezer_of
from transship.runtime import conmon
from transship.runtime.conmon import Console
from transship.runtime.layout import Layout

__all__ = ["RestoreRequest", "Restored", "Restorer", "discard", "resume"]

READY_TIMEOUT_SECONDS = 30.0
END_TIMEOUT_SECONDS = 5.0
"""For conmon and runc, once the gate has ended."""
NOTE_TIMEOUT_SECONDS = 20.0
"""For runc's notes on a restored container: some milliseconds as a rule."""

T = TypeVar("T")


@dataclass(frozen=True)
class RestoreRequest:
    """A container whose bundle and network namespace are there.

    LAZY: somebody who listens on `lazy-pages.socket` in the working folder gives it its memory.
    """

    container: str
    layout: Layout
    console: Console
    pages: Pages = Pages.IN_IMAGES


@dataclass(frozen=True)
class Restored:
    """A held copy; `pid` is its process 1, seen from the node."""

    pid: int


class Restorer:
    """One restore, through a conmon, runc and CRIU that are started beforehand (see criu_gate)."""

    def __init__(self, request: RestoreRequest, gate: GateConnection) -> None:
        self._request = request
        self._gate = gate
        self._launching = asyncio.create_task(_launch(request, gate))

    @classmethod
    async def ready(cls, request: RestoreRequest) -> Self:
        """Bring it so far that images, files and pages are all that is missing.

        Raises CheckpointFailed; nothing is left then.
        """
        freezer = _prepare(request)
        gate = GateConnection.listen(_work(request))
        restorer = cls(request, gate)
        async with restorer._or_nothing(READY_TIMEOUT_SECONDS):
            setup = restore_setup(request.layout, request.container, freezer=freezer)
            await restorer._unless_over(gate.accept(setup))
            await restorer._unless_over(gate.expect(MessageKind.READY))
        return restorer

    async def restore(
        self, *, timeout_seconds: float, progress: Progress | None = None
    ) -> Restored:
        """Restore from the images that are there by now. Raises CheckpointFailed.

        Its time is over so long after the last `progress` of what it may be waiting for.
        """
        async with self._or_nothing(timeout_seconds, progress):
            await self._gate.send(MessageKind.GO)
            held = await self._unless_over(self._gate.expect(MessageKind.HELD))
            _require_held(freezer_of(self._request.layout.cgroup(self._request.container)))
        return Restored(held.pid)

    async def settle(self) -> None:
        """Wait for conmon and runc, which note the copy while it is held, or runs already.

        A runc that is killed then is like a conmon that dies: the copy runs on without it. (conmon
        itself would wait until the container writes to its stderr, and take that for runc's words.)
        """
        self._gate.close()
        await asyncio.wait([self._launching], timeout=NOTE_TIMEOUT_SECONDS)
        if not self._launching.done():
            conmon.kill(self._request.layout, self._request.container)
            await asyncio.wait([self._launching])
        if (error := self._launching.exception()) is not None:
            log = logger.bind(container=self._request.container, error=str(error))
            log.warning("the restored container is without its supervisor")
        with contextlib.suppress(TransshipError):  # a gate that lingers: the janitor's, then
            layout, container = self._request.layout, self._request.container
            cgroups.remove(cgroups.detect(), layout.criu_cgroup(container))

    async def close(self) -> None:
        """Leave nothing of the copy, held or not; can be repeated."""
        self._gate.close()
        await asyncio.wait([self._launching], timeout=END_TIMEOUT_SECONDS)
        await discard(self._request.layout, self._request.container)
        self._launching.cancel()
        await asyncio.wait([self._launching])

    async def _unless_over(self, call: Coroutine[object, object, T]) -> T:
        """Wait for a call, or for the end of conmon and runc, which is a failure before it."""
        waiting = asyncio.ensure_future(call)
        try:
            await asyncio.wait({waiting, self._launching}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                await self._launching
                raise TransshipError("runc ended without a restored container")
            return waiting.result()
        finally:
            waiting.cancel()

    @contextlib.asynccontextmanager
    async def _or_nothing(
        self, seconds: float, progress: Progress | None = None
    ) -> AsyncIterator[None]:
        """Leave nothing of the copy when this fails, and explain why it did."""
        log = _work(self._request) / options.RESTORE_LOG_NAME
        try:
            async with idle_timeout(seconds, progress):
                yield
        except BaseException as e:
            await self.close()
            if isinstance(e, TimeoutError):
                raise failures.timed_out(
                    log, doing="restoring", reason=Reason.RESTORE_TIMED_OUT, seconds=seconds
                ) from e
            if isinstance(e, CheckpointFailed) or not isinstance(e, TransshipError):
                raise
            raise failures.from_log(
                log, doing="restoring", otherwise=Reason.RESTORE_FAILED, error=e.message
            ) from e


def resume(layout: Layout, container: str) -> None:
    """Let a held copy run: one write, within which the kernel wakes all tasks."""
    freezer_of(layout.cgroup(container)).thaw()


def _work(request: RestoreRequest) -> Path:
    return request.layout.images(request.container) / "work"


def _prepare(request: RestoreRequest) -> Freezer:
    layout, container = request.layout, request.container
    hierarchies = cgroups.detect()
    cgroups.create(hierarchies, layout.cgroup_parent)
    cgroups.create(hierarchies, layout.criu_cgroup(container))
    _start_images(request).mkdir(parents=True, exist_ok=True, mode=0o700)
    (_work(request) / options.RESTORE_LOG_NAME).unlink(missing_ok=True)
    # no standard stream is known by name yet: the gate adds those that the dump names
    (_start_images(request) / "descriptors.json").write_text("[]")
    config = options.restore_config(devices=layout.devices(container))
    layout.criu_config(container).write_text(config)
    return freezer_of(layout.cgroup(container))


def _start_images(request: RestoreRequest) -> Path:
    """What runc takes for the images, when there are none yet."""
    return _work(request) / "start"


async def _launch(request: RestoreRequest, gate: GateConnection) -> int:
    """Start conmon, runc and the gate; returns when runc has noted the restored container."""
    runc_options = [*options.RUNC_RESTORE_OPTIONS, f"--work-path={_work(request)}"]
    if request.pages is Pages.LAZY:
        runc_options.append(options.RUNC_LAZY_OPTION)
    network = externals.network(externals.read_spec(request.layout.bundle(request.container)))
    images = str(_start_images(request))
    return await conmon.launch(
        request.layout,
        container_id=request.container,
        console=request.console,
        extra=["--restore", images, *(f"--runtime-opt={option}" for option in runc_options)],
        before=criu.inside(network),
        environment=gate.environment(request.layout),
        answer_seconds=None,
    )


def _require_held(freezer: Freezer) -> None:
    if freezer.state() is not FreezerState.FROZEN:
        raise CheckpointFailed(
            "restoring: the copy is not frozen after its restore", reason=Reason.NOT_HELD
        )
