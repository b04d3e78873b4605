"""Restores a container and holds it: complete and frozen, until `resume`.

After `Restorer.restore` has returned, the container is frozen, none of its tasks has run, and it
stays so whichever process dies. After a failure only its files and images are left.
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
RUNC_STATE_TIMEOUT_SECONDS = 20.0
"""For runc to write its state of a restored container; usually some milliseconds."""

T = TypeVar("T")


@dataclass(frozen=True)
class RestoreRequest:
    """A container whose bundle and network namespace exist.

    With Pages.LAZY a page server has to listen on `lazy-pages.socket` in the working directory.
    """

    container: str
    layout: Layout
    console: Console
    pages: Pages = Pages.IN_IMAGES


@dataclass(frozen=True)
class Restored:
    """A held copy; `pid` is its process 1, as the node counts it."""

    pid: int


class Restorer:
    """One restore, by a conmon, runc and CRIU that are started beforehand (see criu.gate)."""

    def __init__(self, request: RestoreRequest, gate: GateConnection) -> None:
        self._request = request
        self._gate = gate
        self._launching = asyncio.create_task(_launch(request, gate))

    @classmethod
    async def ready(cls, request: RestoreRequest) -> Self:
        """Start conmon, runc and CRIU, which then need only images, files and pages.

        Raises CheckpointFailed, after it has removed everything again.
        """
        freezer = _prepare(request)
        gate = GateConnection.listen(_work(request))
        restorer = cls(request, gate)
        async with restorer._or_discard(READY_TIMEOUT_SECONDS):
            setup = restore_setup(request.layout, request.container, freezer=freezer)
            await restorer._unless_runc_ends(gate.accept(setup))
            await restorer._unless_runc_ends(gate.expect(MessageKind.READY))
        return restorer

    async def restore(
        self, *, timeout_seconds: float, progress: Progress | None = None
    ) -> Restored:
        """Restore from the images, which have to be complete. Raises CheckpointFailed.

        It times out `timeout_seconds` after the last `progress`.
        """
        async with self._or_discard(timeout_seconds, progress):
            await self._gate.send(MessageKind.GO)
            held = await self._unless_runc_ends(self._gate.expect(MessageKind.HELD))
            _require_held(freezer_of(self._request.layout.cgroup(self._request.container)))
        return Restored(held.pid)

    async def settle(self) -> None:
        """Wait for conmon and runc to record the copy, which may run already.

        If runc does not finish, conmon is killed: the copy runs on without a supervisor. (conmon
        alone would wait until the container writes to stderr, and take that for an error of runc.)
        """
        self._gate.close()
        await asyncio.wait([self._launching], timeout=RUNC_STATE_TIMEOUT_SECONDS)
        if not self._launching.done():
            conmon.kill(self._request.layout, self._request.container)
            await asyncio.wait([self._launching])
        if (error := self._launching.exception()) is not None:
            log = logger.bind(container=self._request.container, error=str(error))
            log.warning("the restored container is without its supervisor")
        # the garbage collection removes the cgroup when the gate has not ended yet
        with contextlib.suppress(TransshipError):
            layout, container = self._request.layout, self._request.container
            cgroups.remove(cgroups.detect(), layout.criu_cgroup(container))

    async def close(self) -> None:
        """Discard the copy, held or not. Can be repeated."""
        self._gate.close()
        await asyncio.wait([self._launching], timeout=END_TIMEOUT_SECONDS)
        await discard(self._request.layout, self._request.container)
        self._launching.cancel()
        await asyncio.wait([self._launching])

    async def _unless_runc_ends(self, call: Coroutine[object, object, T]) -> T:
        """Wait for a call; fail when conmon and runc end before it."""
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
    async def _or_discard(
        self, seconds: float, progress: Progress | None = None
    ) -> AsyncIterator[None]:
        """Discard the copy when the context fails, and explain the failure."""
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
    """Let a held copy run: the kernel wakes all its tasks within one write."""
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
    # the standard streams are not known yet: the gate adds those that the dump names
    (_start_images(request) / "descriptors.json").write_text("[]")
    config = options.restore_config(devices=layout.devices(container))
    layout.criu_config(container).write_text(config)
    return freezer_of(layout.cgroup(container))


def _start_images(request: RestoreRequest) -> Path:
    """The directory that runc gets for the images, before there are any."""
    return _work(request) / "start"


async def _launch(request: RestoreRequest, gate: GateConnection) -> int:
    """Start conmon, runc and the gate; returns when runc has recorded the container."""
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
