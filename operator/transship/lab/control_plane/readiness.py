"""Waits until a server that was just started is ready."""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Callable
from pathlib import Path

from transship.common.errors import DeadlineExceeded, TransshipError
from transship.lab.daemons import daemon_alive, log_path

# 3 s on an idle machine
READY_TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.03
ANSWER_TIMEOUT_SECONDS = 5.0
LOG_TAIL_CHARACTERS = 1500

LOCALHOST = "127.0.0.1"


def answers(
    path: str, *, port: int, address: str = LOCALHOST, tls: ssl.SSLContext | None = None
) -> bool:
    """Whether a GET returns 200."""
    timeout = ANSWER_TIMEOUT_SECONDS
    connection = (
        http.client.HTTPConnection(address, port, timeout=timeout)
        if tls is None
        else http.client.HTTPSConnection(address, port, timeout=timeout, context=tls)
    )
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait_until_ready(state_dir: Path, daemon: str, ready: Callable[[], bool]) -> None:
    """Return once `ready` is true. If the daemon ends, raise at once, with the end of its log."""
    deadline = time.monotonic() + READY_TIMEOUT_SECONDS
    while not ready():
        if not daemon_alive(state_dir, daemon):
            raise TransshipError(f"starting {daemon}: it ended:\n{log_tail(state_dir, daemon)}")
        if time.monotonic() > deadline:
            raise DeadlineExceeded(
                f"starting {daemon}: not ready in {READY_TIMEOUT_SECONDS:g} s:\n"
                f"{log_tail(state_dir, daemon)}"
            )
        time.sleep(POLL_SECONDS)


def log_tail(state_dir: Path, daemon: str) -> str:
    text = log_path(state_dir, daemon).read_text(errors="replace")
    return text[-LOG_TAIL_CHARACTERS:].strip()
