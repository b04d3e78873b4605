"""CRIU's page stream between two nodes: a socket pair to CRIU here, mutual TLS to the peer.

CRIU has a TLS of its own, but leaves the last command of a dump in a corked TCP socket: 200 ms in
the middle of the blackout (seen with 4.2.1: 335 ms instead of 124 for 64 MiB). With a socket pair
the connection stands before the freeze, and closing it makes CRIU undo its dump, which killing does
not. The pump is a thread: OpenSSL works outside of the interpreter's lock, at 700 to 1,000 MB/s.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from transship.common.errors import Refused, Unreachable
from transship.common.sockets import make_prompt

CONNECT_TIMEOUT_SECONDS = 5.0
CHUNK_BYTES = 1 << 17
"""Of 64 KiB to 1 MiB the small ones were the faster: they stay in the processor's cache."""


@dataclass(frozen=True)
class RemotePages:
    """The target's page server; `node` is the name that its certificate has to bear."""

    address: str
    port: int
    node: str
    context: ssl.SSLContext


class PageStream:
    """Carries one dump's pages. `criu_end` is CRIU's: to be closed here once CRIU has it."""

    def __init__(self, secured: Callable[[], ssl.SSLSocket]) -> None:
        """`secured` makes the connection to the peer; it is called in the stream's thread."""
        self._ours, self.criu_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._secured = secured
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pages")
        self._peer: ssl.SSLSocket | None = None
        self._pumping: asyncio.Future[int] | None = None

    async def connect(self) -> None:
        """Make the connection; from then on bytes go both ways."""
        loop = asyncio.get_running_loop()
        self._peer = await loop.run_in_executor(self._thread, self._secured)
        self._pumping = loop.run_in_executor(self._thread, _pump, self._ours, self._peer)

    async def finish(self) -> int:
        """Wait until both sides have hung up; returns the bytes that went to the peer."""
        return 0 if self._pumping is None else await asyncio.shield(self._pumping)

    def close(self) -> None:
        """Break the stream: CRIU's next use of it fails. Can be called at any time, repeatedly."""
        for end in (self._ours, self._peer):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        for end in (self.criu_end, self._ours if self._pumping is None else None):
            if end is not None:
                end.close()
        self._thread.shutdown(wait=False)  # the pump, even one not begun yet, closes both


async def open_stream(pages: RemotePages) -> PageStream:
    """Connect to the target's page server: before the freeze. Raises Unreachable."""
    stream = PageStream(lambda: dial(pages))
    try:
        await stream.connect()
    except BaseException:
        stream.close()
        raise
    return stream


def dial(pages: RemotePages) -> ssl.SSLSocket:
    """Connect, blocking. Raises Unreachable."""
    where = (pages.address, pages.port)
    try:
        plain = socket.create_connection(where, timeout=CONNECT_TIMEOUT_SECONDS)
        make_prompt(plain)
        return pages.context.wrap_socket(plain, server_hostname=pages.node)
    except OSError as e:  # ssl.SSLError is one
        raise Unreachable(
            f"opening the page stream to {pages.node} at {pages.address}:{pages.port}: {e}"
        ) from e


def answer(listener: socket.socket, context: ssl.SSLContext, *, peer: str | None) -> ssl.SSLSocket:
    """Accept one connection, from the agent whose certificate has the common name `peer`."""
    with listener:
        plain, _ = listener.accept()
    return admit(plain, context, peer=peer)


def admit(plain: socket.socket, context: ssl.SSLContext, *, peer: str | None) -> ssl.SSLSocket:
    """Secure an accepted connection. Raises Unreachable or Refused, and closes it then."""
    plain.settimeout(CONNECT_TIMEOUT_SECONDS)
    make_prompt(plain)
    try:
        secured = context.wrap_socket(plain, server_side=True)
    except OSError as e:
        plain.close()
        raise Unreachable(f"accepting a page stream: {e}") from e
    name = _common_name(secured)
    if peer is not None and name != peer:
        secured.close()
        raise Refused(f"accepting a page stream: {name} is not {peer}", reason="Forbidden")
    return secured


def _common_name(secured: ssl.SSLSocket) -> str:
    certificate = secured.getpeercert() or {}
    for rdn in certificate.get("subject", ()):
        for pair in rdn:
            if pair[0] == "commonName":
                return str(pair[1])
    return ""


def _pump(plain: socket.socket, secured: ssl.SSLSocket) -> int:
    """Copy both ways until one side hangs up; returns the bytes that went to the peer.

    CRIU's protocol is half duplex (a byte or four come back when all is read), so that one thread
    that blocks in sending cannot make the two sides wait for each other.
    """
    sent = 0
    buffer = memoryview(bytearray(CHUNK_BYTES))
    secured.settimeout(0)  # a session ticket makes it readable, with nothing to read
    with plain, secured, contextlib.suppress(OSError):
        while True:
            ready = [secured] if secured.pending() else select.select([plain, secured], [], [])[0]
            if secured in ready and not _receive(secured, buffer, plain):
                break
            if plain in ready:
                size = plain.recv_into(buffer)
                if size == 0:
                    break
                _send(secured, buffer[:size])
                sent += size
        _hang_up(plain, secured)
    return sent


def _receive(secured: ssl.SSLSocket, buffer: memoryview, plain: socket.socket) -> bool:
    try:
        size = secured.recv_into(buffer)
    except ssl.SSLWantReadError:
        return True
    plain.sendall(buffer[:size])
    return size > 0


def _send(secured: ssl.SSLSocket, data: memoryview) -> None:
    while data:
        try:
            data = data[secured.send(data) :]
        except ssl.SSLWantWriteError:
            select.select([], [secured], [])
        except ssl.SSLWantReadError:
            select.select([secured], [], [])


def _hang_up(plain: socket.socket, secured: ssl.SSLSocket) -> None:
    """Pass the end on to both at once."""
    for end in (plain, secured):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
