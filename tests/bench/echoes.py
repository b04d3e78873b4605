"""Measures blackouts with datagrams to the counter image's echo port, one every 2 ms.

Unlike TCP, datagrams have no retransmission timer, which would up to double a gap of seconds.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Self

from transship.common.errors import DeadlineExceeded

PORT = 7001
PAUSE_SECONDS = 0.002
TIMEOUT_SECONDS = 60.0


class Echoes:
    """Sends in a thread, inside its `with`."""

    def __init__(self, address: str) -> None:
        self._target = (address, PORT)
        self._ended = threading.Event()
        self._answered = threading.Event()
        self._lock = threading.Lock()
        self._last = time.monotonic()
        self._gap = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
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
            self._gap = 0.0

    def longest_gap_milliseconds(self) -> float:
        """The longest time without an echo. Returns once there are echoes again."""
        self._answered.clear()
        if not self._answered.wait(TIMEOUT_SECONDS):
            raise DeadlineExceeded(f"waiting for an echo: none in {TIMEOUT_SECONDS:g} s")
        with self._lock:
            return round(self._gap * 1e3, 1)

    def _run(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PAUSE_SECONDS)
            while not self._ended.wait(PAUSE_SECONDS):
                # fails while the container is on no node
                with contextlib.suppress(OSError):
                    sock.sendto(b"echo", self._target)
                with contextlib.suppress(TimeoutError):
                    sock.recv(16)
                    self._note(time.monotonic())

    def _note(self, now: float) -> None:
        with self._lock:
            self._gap = max(self._gap, now - self._last)
            self._last = now
        self._answered.set()
