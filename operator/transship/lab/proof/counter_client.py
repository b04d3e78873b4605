"""A client of the counter image: one TCP connection on which it requests number after number.

The server keeps the number in memory only. A number that is not larger than the one before means
that the container lost memory or went back in time; an error means that the connection broke.
"""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

PORT = 7000
PAUSE_SECONDS = 0.002
REPLY_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Measurement:
    """Since the last reset. `error` is empty while the connection works."""

    replies: int
    longest_gap_milliseconds: float
    error: str


class CounterClient:
    """Runs in a thread, inside its `with`."""

    def __init__(
        self, address: str, *, port: int = PORT, pause_seconds: float = PAUSE_SECONDS
    ) -> None:
        self._target, self._pause = (address, port), pause_seconds
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._connected = threading.Event()
        self._replies = 0
        self._gap = 0.0
        self._last_reply = 0.0
        self.number = 0
        self.error = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._connected.wait(REPLY_TIMEOUT_SECONDS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def reset(self) -> None:
        """Begin a new measurement."""
        with self._lock:
            self._replies, self._gap = 0, 0.0

    def measurement(self) -> Measurement:
        with self._lock:
            waiting = time.monotonic() - self._last_reply if self._last_reply else 0.0
            gap = max(self._gap, waiting)
            return Measurement(self._replies, round(gap * 1e3, 3), self.error)

    def _run(self) -> None:
        try:
            with socket.create_connection(self._target, timeout=REPLY_TIMEOUT_SECONDS) as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with sock.makefile("rwb", buffering=0) as stream:
                    while not self._ended.wait(self._pause):
                        stream.write(b"next\n")
                        self._note(stream.readline())
        except (OSError, ValueError) as e:
            self.error = f"{type(e).__name__}: {e}"
        finally:
            self._connected.set()

    def _note(self, line: bytes) -> None:
        if not line:
            raise ConnectionResetError("the server closed the connection")
        number, now = int(line), time.monotonic()
        if self.number and number <= self.number:
            raise ValueError(f"{number} came after {self.number}")
        with self._lock:
            if self._last_reply:
                self._gap = max(self._gap, now - self._last_reply)
            self._last_reply = now
            self._replies += 1
        self.number = number
        self._connected.set()
