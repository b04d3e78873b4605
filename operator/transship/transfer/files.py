"""File trees from one agent to the other: rsync at both ends, a stream of ours in between.

rsync keeps what an overlay's upper layer is made of: ownership, modes, times, hard links, sparse
files, devices (whiteouts are 0:0 character devices), sockets, and as root the trusted.* attributes
(opaque directories). It is run in daemon mode over a remote shell (rsync(1), "USING RSYNC-DAEMON
FEATURES VIA A REMOTE-SHELL CONNECTION"), where the shell is socat on an inherited socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

from transship.common.errors import CommandFailed, DeadlineExceeded
from transship.transfer.pace import Pace
from transship.transfer.streams import Stream, pump

MODULE = "container"

# An overlay with index=on refuses an upper layer whose origin handles are of another file system
# ("failed to verify origin"), so what names inodes of the source stays behind.
FOREIGN_ATTRIBUTES = (
    "trusted.overlay.origin",
    "trusted.overlay.uuid",
    "trusted.overlay.nlink",
    "trusted.overlay.impure",
)

_SENDER = (
    "rsync",
    "--archive",
    "--hard-links",
    "--acls",
    "--xattrs",
    "--numeric-ids",
    "--sparse",
    "--devices",
    "--specials",
    # nanoseconds: by default rsync takes files of the same second and size for unchanged
    "--modify-window=-1",
    "--stats",
    "--no-human-readable",
)


@dataclass(frozen=True)
class Sent:
    """What one run moved."""

    bytes: int


async def send_trees(
    root: Path,
    names: Sequence[str],
    *,
    stream: Stream,
    timeout_seconds: float,
    pace: Pace | None = None,
) -> Sent:
    """Make the peer's `names` (below `root`) equal to ours; what it has beyond them goes away."""
    options = ["--delete", "--recursive"]
    words = [*options, *names]
    return await _send(root, words, stream=stream, timeout_seconds=timeout_seconds, pace=pace)


class ReadyRun:
    """A run of rsync that stands ready at both ends, and needs to be told only the names.

    What it is told of is sent whatever times and sizes say. Without having been started before it
    takes 9 ms for a small file, so 4.
    """

    def __init__(self, root: Path, run: _Run) -> None:
        self._root = root
        self._run = run

    @classmethod
    async def start(cls, root: Path, *, stream: Stream, in_place: bool = False) -> Self:
        """Names will be relative to `root`. The stream is the run's from here on.

        In place: into the peer's files of these names, which somebody there may have open. Not for
        a file with several names: by another one the content would change too.
        """
        options = ["--inplace"] if in_place else ["--delete-missing-args", "--force"]
        words = [
            *options,
            "--ignore-times",
            "--no-implied-dirs",
            "--files-from=-",
            "--from0",
            ".",
        ]
        return cls(root, await _Run.start(root, words, stream=stream, told=True))

    async def send(
        self, files: Sequence[str], *, removed: Sequence[str] = (), timeout_seconds: float
    ) -> Sent:
        """Send files, and have the peer remove those that are not here any more. Once only.

        The folders above are named too: those that rsync adds by itself come with the attributes
        that are filtered out of all others (3.5.1), and one left out would get a time of its own.
        """
        parents = {str(each) for name in files for each in PurePosixPath(name).parents} - {"."}
        names = sorted(parents.union(files, _topmost(self._root, removed)))
        listing = b"\0".join(name.encode("utf-8", "surrogateescape") for name in names)
        return await self._run.finish(listing, timeout_seconds=timeout_seconds)

    async def close(self) -> None:
        """End it, used or not."""
        await self._run.close()


def _topmost(root: Path, removed: Sequence[str]) -> list[str]:
    """Those whose folder is still one: with the others, that goes away as a whole."""
    folders = {PurePosixPath("."): True}

    def is_folder(name: PurePosixPath) -> bool:
        if name not in folders:
            here = is_folder(name.parent) and (root / name).is_dir()
            folders[name] = here and not (root / name).is_symlink()
        return folders[name]

    return [name for name in removed if is_folder(PurePosixPath(name).parent)]


async def _send(
    root: Path,
    words: Sequence[str],
    *,
    stream: Stream,
    timeout_seconds: float,
    pace: Pace | None = None,
) -> Sent:
    run = await _Run.start(root, words, stream=stream, pace=pace)
    try:
        return await run.finish(None, timeout_seconds=timeout_seconds)
    finally:
        await run.close()


class _Run:
    """One rsync as the sender, joined with a stream."""

    def __init__(
        self, child: asyncio.subprocess.Process, argv: list[str], bridge: AsyncExitStack
    ) -> None:
        self._child = child
        self._argv = argv
        self._bridge = bridge

    @classmethod
    async def start(
        cls,
        root: Path,
        words: Sequence[str],
        *,
        stream: Stream,
        told: bool = False,
        pace: Pace | None = None,
    ) -> Self:
        """With `told` it waits for names."""
        ours, theirs = socket.socketpair()
        async with AsyncExitStack() as bridge:
            with theirs:
                await bridge.enter_async_context(_bridged(ours, stream, pace=pace))
                # rsync looks every 20 ms whether its shell has ended: so that ends at once
                joint = f"socat -t0 STDIO FD:{theirs.fileno()} <&3 3<&-"
                shell = f"sh -c 'exec 3<&0; {joint} &'"
                filters = [f"--filter=-x {name}" for name in FOREIGN_ATTRIBUTES]
                argv = [*_SENDER, *filters, f"--rsh={shell}", *words, f"peer::{MODULE}/"]
                child = await asyncio.create_subprocess_exec(
                    *argv,
                    cwd=root,
                    stdin=asyncio.subprocess.PIPE if told else asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    pass_fds=[theirs.fileno()],
                )
            return cls(child, argv, bridge.pop_all())

    async def finish(self, names: bytes | None, *, timeout_seconds: float) -> Sent:
        async with _ended(self._child, self._argv, timeout_seconds):
            output, _ = await self._child.communicate(names)
        text = output.decode(errors="replace")
        await self._bridge.aclose()
        # 24: a file vanished between the listing and the copy, as files of running containers do
        if self._child.returncode not in {0, 24}:
            raise CommandFailed(
                self._argv, self._child.returncode or 0, text, reason="FileCopyFailed"
            )
        return Sent(bytes=_total_sent(text))

    async def close(self) -> None:
        if self._child.returncode is None:
            self._child.kill()
            await self._child.communicate()
        with contextlib.suppress(OSError):
            await self._bridge.aclose()


def _total_sent(stats: str) -> int:
    for line in stats.splitlines():
        if line.startswith("Total bytes sent:"):
            return int(line.split(":")[1].replace(",", "").strip())
    return 0


async def receive_trees(root: Path, *, stream: Stream, timeout_seconds: float) -> None:
    """Serve one run of the peer's sender into `root`."""
    with _daemon_config(root) as config:
        await _receive(config, stream=stream, timeout_seconds=timeout_seconds)


async def _receive(config: Path, *, stream: Stream, timeout_seconds: float) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        argv = ["rsync", "--server", "--daemon", f"--config={config}", "."]
        child = await asyncio.create_subprocess_exec(
            *argv, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=asyncio.subprocess.PIPE
        )
    async with _bridged(ours, stream), _ended(child, argv, timeout_seconds):
        _, errors = await child.communicate()
    if child.returncode not in {0, 24}:
        text = errors.decode(errors="replace")
        raise CommandFailed(argv, child.returncode or 0, text, reason="FileCopyFailed")


@contextlib.contextmanager
def _daemon_config(root: Path) -> Iterator[Path]:
    """In the root itself: what a killed agent leaves there goes with the container."""
    path = root / f".rsync-{os.urandom(4).hex()}.conf"
    lines = (
        "use chroot = yes",  # without it rsync rewrites absolute symbolic links
        "numeric ids = yes",
        "uid = 0",
        "gid = 0",
        "log file = /dev/null",
        f"[{MODULE}]",
        f"path = {root}",
        "read only = no",
        "",
    )
    try:
        path.write_text("\n".join(lines))
        yield path
    finally:
        path.unlink(missing_ok=True)


@asynccontextmanager
async def _bridged(
    sock: socket.socket, stream: Stream, *, pace: Pace | None = None
) -> AsyncIterator[None]:
    """Join a local socket and a stream both ways for as long as the body runs.

    When the stream breaks the local end hangs up: rsync would wait for the rest of it for ever.
    """
    reader, writer = await asyncio.open_connection(sock=sock)

    async def carry(work: Coroutine[Any, Any, int]) -> None:
        try:
            await work
        except OSError:
            writer.transport.abort()
            raise

    out = asyncio.create_task(carry(pump(reader, stream.writer, pace=pace)))
    into = asyncio.create_task(carry(pump(stream.reader, writer)))
    try:
        yield
        # the child is done and its end closed: what it wrote last is still on its way to the peer
        with contextlib.suppress(OSError):
            await out
    finally:
        for task in (out, into):
            task.cancel()
        await asyncio.gather(out, into, return_exceptions=True)
        writer.close()


@asynccontextmanager
async def _ended(
    child: asyncio.subprocess.Process, argv: Sequence[str], timeout_seconds: float
) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_seconds):
            yield
    except TimeoutError as e:
        raise DeadlineExceeded(f"running {argv[0]}: not done in {timeout_seconds:g} s") from e
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
