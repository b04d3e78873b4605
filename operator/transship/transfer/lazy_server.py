"""Serves CRIU's lazy-pages daemon from a page store, in a thread, over a connected socket.

The daemon speaks the client's side of CRIU's page server (criu/page-xfer.c): a request is
`u32 cmd, u32 padding, u64 pages, u64 address, u64 pid` in native order, and asks for pages of the
process that has this pid inside of the container. The answer is the same header and the pages, all
of those asked for: the daemon waits for every byte. A page that nobody has breaks the connection
loudly, for zeros would corrupt the container in silence.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

from loguru import logger

from transship.common.errors import TransshipError, Unreachable
from transship.transfer.page_ranges import PAGE_BYTES, PageRange
from transship.transfer.page_store import PageStore

Fallback = Callable[[PageRange], bytes]
"""Gets pages from elsewhere (the source that still has them); the content in full, or raises."""

Gate = Callable[[PageRange], None]
"""Is asked before each answer, and may let the daemon wait."""

BUFFER_BYTES = 4 << 20
MAX_REQUEST_PAGES = 1 << 28

_REQUEST = struct.Struct("=I4xQQQ")
_STATUS = struct.Struct("=i")
_COMMAND = 0xFFFF
_GET = 7
_ADD = 6
_PRESENT = 4 << 16
_CLOSE = 0x1023
_FORCE_CLOSE = 0x1024


class LazyServer:
    """One daemon's page server. `fallback` is asked for pages that the store does not have."""

    def __init__(
        self,
        channel: socket.socket,
        store: PageStore,
        *,
        fallback: Fallback | None = None,
        gate: Gate | None = None,
    ) -> None:
        channel.settimeout(None)
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self._channel = channel
        self._store = store
        self._fallback = fallback
        self._gate = gate
        self._thread = threading.Thread(target=self._run, name="lazy-pages", daemon=True)
        self.requests = 0
        self.pages = 0
        self.error: TransshipError | None = None
        """Why the daemon was left without an answer; None as long as all went well."""

    def start(self) -> None:
        self._thread.start()

    def wait(self, timeout_seconds: float) -> bool:
        """Whether the daemon has hung up (done with all pages, or after `error`) in that time."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def close(self) -> None:
        """End it; no view of the store is in use afterwards."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        if self._thread.ident is not None:
            self._thread.join()
        self._channel.close()

    def _run(self) -> None:
        try:
            while self._serve_one():
                pass
        except TransshipError as e:
            self.error = e
            logger.error("a container's page cannot be had: {}", e)
        except OSError as e:
            self.error = Unreachable(f"serving lazy pages: {e}")
        finally:
            with contextlib.suppress(OSError):
                self._channel.shutdown(socket.SHUT_RDWR)

    def _serve_one(self) -> bool:
        """Answer one request; False when there will be no more."""
        request = self._next()
        if request is None:
            return False
        command, pages, address, pid = _REQUEST.unpack(request)
        match command & _COMMAND:
            case code if code == _GET:
                self._answer(PageRange(pid, address, pages))
                return True
            case code if code in {_CLOSE, _FORCE_CLOSE}:
                self._channel.sendall(_STATUS.pack(0))
                return True
            case other:
                raise TransshipError(f"serving lazy pages: the daemon sent command {other}")

    def _next(self) -> bytes | None:
        data = self._channel.recv(_REQUEST.size, socket.MSG_WAITALL)
        if data and len(data) < _REQUEST.size:
            raise Unreachable("serving lazy pages: the daemon ended within a request")
        return data or None

    def _answer(self, wanted: PageRange) -> None:
        if wanted.address % PAGE_BYTES or not 0 < wanted.pages <= MAX_REQUEST_PAGES:
            raise TransshipError(f"serving lazy pages: the daemon asked for {wanted}")
        if self._gate is not None:
            self._gate(wanted)
        content = list(self._content(wanted))  # all of it, before the header promises it
        header = _REQUEST.pack(_ADD | _PRESENT, wanted.pages, wanted.address, wanted.pid)
        self._channel.sendall(header)
        for part in content:
            self._channel.sendall(part)
        self.requests += 1
        self.pages += wanted.pages

    def _content(self, wanted: PageRange) -> Iterator[memoryview | bytes]:
        missing = self._store.missing([wanted]) if self._fallback is not None else ()
        at = wanted.address
        for hole in missing:
            yield from self._stored(wanted.pid, at, hole.address)
            yield self._elsewhere(hole)
            at = hole.end
        yield from self._stored(wanted.pid, at, wanted.end)

    def _stored(self, pid: int, start: int, end: int) -> list[memoryview]:
        if start == end:
            return []
        return self._store.view(PageRange(pid, start, (end - start) // PAGE_BYTES))

    def _elsewhere(self, hole: PageRange) -> bytes:
        assert self._fallback is not None  # only asked for holes then
        content = self._fallback(hole)
        if len(content) != hole.bytes:
            raise TransshipError(f"serving lazy pages: {len(content)} bytes came for {hole}")
        return content
