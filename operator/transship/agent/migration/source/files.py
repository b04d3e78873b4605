"""The files of an outgoing container: all while it runs, the difference inside the freeze.

The stream for the difference is opened before the freeze. The container's log has streams of its
own: the target's conmon has the log open already, so it is written in place.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path

from transship.agent.migration.ports import Trees
from transship.agentapi.migrations import Peer
from transship.agentapi.paths import STREAM_PORT
from transship.common.errors import TransshipError
from transship.files.change_detection import Changes, TreeSnapshot, changes, take_snapshot
from transship.files.rsync import SendResult, in_folders, send_files, send_in_place, send_trees
from transship.streams.bandwidth_limit import BandwidthLimit
from transship.streams.connection import Hello, Stream, StreamKind, open_stream

COPY_TIMEOUT_SECONDS = 24 * 3600.0
DIFFERENCE_TIMEOUT_SECONDS = 60.0

MAX_ROUNDS = 5
"""Of copies while the container runs: against a writer as fast as the copy no number helps."""
ENOUGH_BYTES = 1 << 20
"""A smaller difference is left for the freeze: sending it takes a few milliseconds."""

Mapped = Callable[[], frozenset[str]]
"""Returns files that processes can change through a mapping, relative to the container's home."""


class FileCopy:
    """Copies the trees of one container to one target."""

    def __init__(
        self,
        home: Path,
        trees: Trees,
        *,
        peer: Peer,
        migration: str,
        context: ssl.SSLContext,
        mapped: Mapped,
        bandwidth: BandwidthLimit | None = None,
    ) -> None:
        self._home = home
        self._trees = trees.names
        self._opaque = trees.opaque
        self._log = _Log(home, trees.log)
        self._peer = peer
        self._migration = migration
        self._context = context
        self._mapped = mapped
        self._bandwidth = bandwidth or BandwidthLimit(None)
        # as of the last run; None: there was none yet, or it broke off
        self._last: TreeSnapshot | None = None
        # may differ from what was sent without a trace: mapped when the last run began, or in a
        # run that broke off
        self._doubtful: frozenset[str] = frozenset()
        self._snapshot_ahead: asyncio.Task[TreeSnapshot] | None = None
        self._ready: Stream | None = None
        self._ready_for_log: Stream | None = None
        self.bytes = 0

    async def copy(self) -> None:
        """Copy all files, then what changed meanwhile; all files again after a failed run."""
        if self._last is None:
            await self._copy_whole()
        if self._log.has_changed():
            stream = await self._open()
            try:
                await self._run_log(stream, timeout_seconds=COPY_TIMEOUT_SECONDS)
            finally:
                await stream.close()
        await self.catch_up()

    async def _copy_whole(self) -> None:
        snapshot = await self._snapshot()
        earlier, mapped = self._doubtful, await self._mapped_now()
        await self._begin_run(snapshot, mapped)
        sent = await self._run_whole(await self._open(), timeout_seconds=COPY_TIMEOUT_SECONDS)
        # rsync passes over a file of the same size and time: what was in doubt still is
        await self._end_run(snapshot, sent.names, doubtful=earlier | mapped)

    async def _begin_run(self, snapshot: TreeSnapshot, mapped: frozenset[str]) -> None:
        """Nothing counts as sent until the run has ended well."""
        unsettled = await asyncio.to_thread(snapshot.unsettled_paths)
        self._last, self._doubtful = None, self._doubtful | mapped | unsettled

    async def _end_run(
        self, snapshot: TreeSnapshot, sent: Iterable[str], *, doubtful: frozenset[str]
    ) -> None:
        known = await asyncio.to_thread(snapshot.with_sent, sent)
        self._last, self._doubtful = known, doubtful

    async def catch_up(self) -> None:
        """Copy what changed since the last copy, until the rest is small or shrinks no more.

        That includes files that were mapped at the last copy and no longer are. Files that still
        are mapped are left for the freeze: they may change after any copy before it.
        """
        if self._last is None:
            raise TransshipError("catching up with files before they were copied")
        left: int | None = None
        for _ in range(MAX_ROUNDS):
            now = await self._snapshot()
            mapped = await self._mapped_now()
            changed = changes(self._last, now, always=self._doubtful - mapped)
            if changed.bytes <= ENOUGH_BYTES or (left is not None and changed.bytes >= left):
                break
            left = changed.bytes
            await self._begin_run(now, mapped)
            await self._run_part(changed)
            # a removed file may be created and removed again before the run gets to it
            await self._end_run(now, changed.removed, doubtful=mapped)

    async def make_ready(self) -> None:
        """Open the streams for the difference, so that the freeze does not wait for handshakes."""
        if self._last is not None:
            await asyncio.to_thread(lambda last: last.unsettled, self._last)
        await self._close_streams()
        self._ready = await self._open()
        if self._log.name is not None:
            self._ready_for_log = await self._open()

    def begin_snapshot(self) -> None:
        """Begin to look for changes: the container is frozen."""
        self._snapshot_ahead = asyncio.create_task(self._snapshot())

    async def send_difference(self, *, has_new_files: bool = False) -> None:
        """Send what has changed since the last round; the container must be frozen.

        With `has_new_files` the snapshot that was begun is too old.
        """
        if self._last is None or self._ready is None:
            raise TransshipError("sending a difference of files before the files")
        ahead, self._snapshot_ahead = self._snapshot_ahead, None
        now = await self._snapshot() if ahead is None else await ahead
        if ahead is not None and has_new_files:
            now = await self._snapshot()
        mapped = self._doubtful | self._mapped()
        changed = changes(self._last, now, always=mapped, below=self._opaque)
        log = asyncio.create_task(self._send_log())
        try:
            await self._send_changes(changed)
            await log
        finally:
            log.cancel()
            await asyncio.wait([log])
        self._last = now

    async def _send_changes(self, changed: Changes) -> None:
        if changed.any and self._ready is not None:
            sent = await send_files(
                self._home,
                changed.files,
                removed=changed.removed,
                stream=self._ready,
                timeout_seconds=DIFFERENCE_TIMEOUT_SECONDS,
            )
            self.bytes += sent.bytes

    async def _send_log(self) -> None:
        if self._ready_for_log is not None and self._log.has_changed():
            await self._run_log(self._ready_for_log, timeout_seconds=DIFFERENCE_TIMEOUT_SECONDS)

    async def close(self) -> None:
        """Close the streams of the difference, used or not; not inside the freeze."""
        if self._snapshot_ahead is not None:
            self._snapshot_ahead.cancel()
        await self._close_streams()

    async def _close_streams(self) -> None:
        streams = (self._ready, self._ready_for_log)
        self._ready = self._ready_for_log = None
        for stream in streams:
            if stream is not None:
                await stream.close()

    async def _snapshot(self) -> TreeSnapshot:
        return await asyncio.to_thread(take_snapshot, self._home, self._trees)

    async def _mapped_now(self) -> frozenset[str]:
        """The mapped files; to be asked between a snapshot and the run that follows.

        A file that is mapped later has a change that the next snapshot has. A file that is no
        longer mapped was stored to only before the run.
        """
        return await asyncio.to_thread(self._mapped)

    async def _open(self) -> Stream:
        hello = Hello(migration=self._migration, kind=StreamKind.FILES)
        return await open_stream(
            self._peer.address,
            port=STREAM_PORT,
            context=self._context,
            node=self._peer.node,
            hello=hello,
        )

    async def _run_whole(self, stream: Stream, *, timeout_seconds: float) -> SendResult:
        try:
            sent = await send_trees(
                self._home,
                self._trees,
                stream=stream,
                timeout_seconds=timeout_seconds,
                bandwidth=self._bandwidth,
            )
        finally:
            await stream.close()
        self.bytes += sent.bytes
        return sent

    async def _run_part(self, changed: Changes) -> None:
        """Send changes while the container runs; what moves meanwhile waits for the next run."""
        files = await asyncio.to_thread(in_folders, self._home, changed.files)
        stream = await self._open()
        try:
            sent = await send_files(
                self._home,
                files,
                removed=changed.removed,
                stream=stream,
                timeout_seconds=COPY_TIMEOUT_SECONDS,
                bandwidth=self._bandwidth,
            )
        finally:
            await stream.close()
        self.bytes += sent.bytes

    async def _run_log(self, stream: Stream, *, timeout_seconds: float) -> None:
        state = self._log.state()
        sent = await send_in_place(
            self._home,
            self._log.path,
            stream=stream,
            timeout_seconds=timeout_seconds,
            bandwidth=self._bandwidth,
        )
        self._log.sent(state)
        self.bytes += sent.bytes


class _Log:
    """The container's log, and its size and time when it was last sent."""

    def __init__(self, home: Path, name: str | None) -> None:
        self.name = name
        self._home = home
        self._sent: tuple[int, int] | None = None

    @property
    def path(self) -> str:
        assert self.name is not None
        return self.name

    def has_changed(self) -> bool:
        return self.name is not None and self.state() != self._sent

    def sent(self, state: tuple[int, int]) -> None:
        """A run that began in this state has ended well."""
        self._sent = state

    def state(self) -> tuple[int, int]:
        status = (self._home / self.path).stat()
        return status.st_size, status.st_mtime_ns
