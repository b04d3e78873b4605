"""Sends file trees from one agent to another: rsync at both ends, over a stream between agents.

rsync keeps everything that an overlay's upper layer consists of: ownership, modes, times, hard
links, sparse files, devices (whiteouts are 0:0 character devices), sockets, and as root the
trusted.* attributes (opaque directories). It runs in daemon mode over a remote shell (rsync(1),
"USING RSYNC-DAEMON FEATURES VIA A REMOTE-SHELL CONNECTION"). The shell is socat on an inherited
socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from transship.common.errors import CommandFailed, DeadlineExceeded
from transship.streams.bandwidth_limit import BandwidthLimit
from transship.streams.connection import Stream, pump

MODULE = "container"

# An overlay with index=on refuses an upper layer whose origin handles are of another file system
# ("failed to verify origin"), so attributes that name inodes of the source are not sent.
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

FEW_NAMES = 1000
"""More names (10 us each) are listed in a thread: they would block the event loop for others."""

_NAMED = re.compile(rb"^send (.+?)/?\n", re.MULTILINE)
_ESCAPED = re.compile(rb"\\#([0-7]{3})")
"""How rsync writes what a terminal would not print."""


@dataclass(frozen=True)
class SendResult:
    """The result of one run. names: for whole trees, every name that the peer may have received."""

    bytes: int
    names: frozenset[str] = frozenset()


async def send_trees(
    root: Path,
    names: Sequence[str],
    *,
    stream: Stream,
    timeout_seconds: float,
    bandwidth: BandwidthLimit | None = None,
) -> SendResult:
    """Make the peer's trees `names` (below `root`) equal to these, deleting what else it has."""
    options = ["--delete", "--recursive", "--out-format=%o %n"]
    words = [*options, *names]
    return await _send(
        root, words, stream=stream, timeout_seconds=timeout_seconds, bandwidth=bandwidth
    )


async def send_files(
    root: Path,
    files: Sequence[str],
    *,
    removed: Sequence[str] = (),
    stream: Stream,
    timeout_seconds: float,
    bandwidth: BandwidthLimit | None = None,
) -> SendResult:
    """Send these files (paths relative to `root`) regardless of their times and sizes.

    Removed files are deleted at the peer, with everything below them, and so are files that vanish
    meanwhile. If the folder of a name may have become something else, the name must pass
    `in_folders` first: rsync fails below a file, and follows a symbolic link. The folders above the
    files are named as well. Folders that rsync adds itself would come with the attributes that are
    filtered out of all others (rsync 3.5.1), and an omitted one would get a new time.
    """
    if len(files) + len(removed) <= FEW_NAMES:
        listing = _listing(root, files, removed)
    else:
        listing = await asyncio.to_thread(_listing, root, files, removed)
    words = ["--ignore-times", "--no-implied-dirs", "--delete-missing-args", "--force"]
    words += ["--files-from=-", "--from0", "."]
    return await _send(
        root,
        words,
        stream=stream,
        timeout_seconds=timeout_seconds,
        stdin=listing,
        bandwidth=bandwidth,
    )


def _listing(root: Path, files: Sequence[str], removed: Sequence[str]) -> bytes:
    parents = {str(parent) for name in files for parent in PurePosixPath(name).parents} - {"."}
    names = sorted(parents.union(files, in_folders(root, removed)))
    return b"\0".join(name.encode("utf-8", "surrogateescape") for name in names)


async def send_in_place(
    root: Path,
    name: str,
    *,
    stream: Stream,
    timeout_seconds: float,
    bandwidth: BandwidthLimit | None = None,
) -> SendResult:
    """Write one file into the peer's existing file of that name, which may be open there.

    Only for a file with a single name: the content would change under its other names too.
    """
    options = ["--inplace", "--ignore-times", name]
    return await _send(
        root, options, stream=stream, timeout_seconds=timeout_seconds, bandwidth=bandwidth
    )


def in_folders(root: Path, names: Sequence[str]) -> list[str]:
    """Return the names whose parents are still folders, up to the root."""
    folders = {PurePosixPath("."): True}

    def is_folder(name: PurePosixPath) -> bool:
        if name not in folders:
            here = is_folder(name.parent) and (root / name).is_dir()
            folders[name] = here and not (root / name).is_symlink()
        return folders[name]

    return [name for name in names if is_folder(PurePosixPath(name).parent)]


async def _send(
    root: Path,
    words: Sequence[str],
    *,
    stream: Stream,
    timeout_seconds: float,
    stdin: bytes | None = None,
    bandwidth: BandwidthLimit | None = None,
) -> SendResult:
    ours, theirs = socket.socketpair()
    with theirs:
        # rsync checks every 20 ms whether its shell has ended, so the shell ends at once
        joint = f"socat -t0 STDIO FD:{theirs.fileno()} <&3 3<&-"
        shell = f"sh -c 'exec 3<&0; {joint} &'"
        filters = [f"--filter=-x {name}" for name in FOREIGN_ATTRIBUTES]
        argv = [*_SENDER, *filters, f"--rsh={shell}", *words, f"peer::{MODULE}/"]
        child = await asyncio.create_subprocess_exec(
            *argv,
            cwd=root,
            stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=[theirs.fileno()],
        )
    async with _bridged(ours, stream, bandwidth=bandwidth), _ended(child, argv, timeout_seconds):
        output, _ = await child.communicate(stdin)
    text = _NAMED.sub(b"", output).decode(errors="replace")
    # 24: a file vanished between the listing and the copy, as files of running containers do
    if child.returncode not in {0, 24}:
        raise CommandFailed(argv, child.returncode or 0, text, reason="FileCopyFailed")
    return SendResult(bytes=_total_sent(text), names=_names(output))


def _names(output: bytes) -> frozenset[str]:
    def name(escaped: bytes) -> str:
        raw = _ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), escaped)
        return raw.decode("utf-8", "surrogateescape")

    return frozenset(name(escaped) for escaped in _NAMED.findall(output))


def _total_sent(stats: str) -> int:
    for line in stats.splitlines():
        if line.startswith("Total bytes sent:"):
            return int(line.split(":")[1].replace(",", "").strip())
    return 0


async def receive_trees(root: Path, *, stream: Stream, timeout_seconds: float) -> None:
    """Receive one run of the peer's sender into `root`."""
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
    """Write the configuration into the root: if the agent is killed, it goes with the container."""
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
    sock: socket.socket, stream: Stream, *, bandwidth: BandwidthLimit | None = None
) -> AsyncIterator[None]:
    """Connect a local socket and a stream in both directions while the body runs.

    When the stream breaks, the local socket is closed: rsync would wait for the rest without end.
    """
    reader, writer = await asyncio.open_connection(sock=sock)

    async def carry(work: Coroutine[Any, Any, int]) -> None:
        try:
            await work
        except OSError:
            writer.transport.abort()
            raise

    out = asyncio.create_task(carry(pump(reader, stream.writer, bandwidth=bandwidth)))
    into = asyncio.create_task(carry(pump(stream.reader, writer)))
    try:
        yield
        # the child has closed its end, but its last bytes may still be on their way to the peer
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
