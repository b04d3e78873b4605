"""Programs to move, and their clients: what each acknowledged is asked for at the end.

A load is one connection of one client. It does one operation after the other, remembers which were
acknowledged, and asks for all of them on the same connection when it is stopped.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

PORT = 7000
REPLY_TIMEOUT_SECONDS = 60.0
PAUSE_SECONDS = 0.002  # between two operations: a load must not take the nodes' processors


class Load(ABC):
    """One client's connection, at work between `with` and its end."""

    port = PORT

    def __init__(self, address: str, *, number: int) -> None:
        self.address = address
        self.number = number
        self.error = ""
        self._acknowledged = 0
        self._missing: list[int] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def acknowledged(self) -> int:
        return self._acknowledged

    @property
    def missing(self) -> Sequence[int]:
        """Acknowledged operations that the program no longer knows of; known at the end."""
        return self._missing

    @abstractmethod
    def connect(self) -> contextlib.AbstractContextManager[Any]:
        """Open the connection, and make everything ready for the first operation."""

    @abstractmethod
    def put(self, key: str, value: str) -> None:
        """One operation; returns when it is acknowledged. Raises when it is refused."""

    @abstractmethod
    def get(self, key: str) -> str:
        """What the program knows of an operation."""

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

    def _run(self) -> None:
        try:
            with self.connect():
                while not self._ended.wait(PAUSE_SECONDS):
                    self.put(self._key(self._acknowledged), f"v{self._acknowledged}")
                    self._acknowledged += 1
                self._missing = [
                    each for each in range(self._acknowledged)
                    if self.get(self._key(each)) != f"v{each}"
                ]  # fmt: skip
        except (OSError, ValueError, http.client.HTTPException) as e:
            self.error = f"operation {self._acknowledged}: {type(e).__name__}: {e}"

    def _key(self, operation: int) -> str:
        return f"{self.number * 1_000_000 + operation}"


class LineLoad(Load):
    """The protocol of the image's own servers: a line for a line."""

    @contextlib.contextmanager
    def connect(self) -> Iterator[None]:
        peer = (self.address, self.port)
        with (
            socket.create_connection(peer, timeout=REPLY_TIMEOUT_SECONDS) as sock,
            sock.makefile("rwb", buffering=0) as self.stream,
        ):
            yield

    def put(self, key: str, value: str) -> None:
        self.expect("ok", self.ask(f"put {key} {value}"))

    def get(self, key: str) -> str:
        return self.ask(f"get {key}")

    def ask(self, line: str) -> str:
        self.stream.write(f"{line}\n".encode())
        return self.read_line()

    def read_line(self) -> str:
        line = self.stream.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the program closed the connection")
        return line.decode().strip()

    def expect(self, wanted: str, found: str) -> None:
        if found != wanted:
            raise ValueError(f"the program answered {found!r}, not {wanted!r}")


class RedisLoad(LineLoad):
    port = 6379

    def put(self, key: str, value: str) -> None:
        self.expect("+OK", self.ask(f"SET {key} {value}"))

    def get(self, key: str) -> str:
        return "" if self.ask(f"GET {key}") == "$-1" else self.read_line()


class MemcachedLoad(LineLoad):
    def put(self, key: str, value: str) -> None:
        self.expect("STORED", self.ask(f"set {key} 0 0 {len(value)}\r\n{value}\r"))

    def get(self, key: str) -> str:
        if self.ask(f"get {key}\r") == "END":
            return ""
        value = self.read_line()
        self.expect("END", self.read_line())
        return value


class HttpLoad(Load):
    """One kept connection, which http.client would silently open again: that is a failure here."""

    @contextlib.contextmanager
    def connect(self) -> Iterator[None]:
        self.connection = http.client.HTTPConnection(
            self.address, self.port, timeout=REPLY_TIMEOUT_SECONDS
        )
        with contextlib.closing(self.connection):
            self.connection.connect()
            self.connection.auto_open = 0
            yield

    def put(self, key: str, value: str) -> None:
        self._request("PUT", key, value)

    def get(self, key: str) -> str:
        return self._request("GET", key, None)

    def _request(self, method: str, key: str, body: str | None) -> str:
        self.connection.request(method, f"/{key}", body)
        with self.connection.getresponse() as response:
            content = response.read().decode()
        if response.status >= 300:
            raise ValueError(f"{method} was answered by {response.status}")
        return content


class PostgresLoad(Load):
    """Each operation is a transaction. Speaks the simple query protocol, version 3, by itself."""

    port = 5432

    @contextlib.contextmanager
    def connect(self) -> Iterator[None]:
        peer = (self.address, self.port)
        with (
            socket.create_connection(peer, timeout=REPLY_TIMEOUT_SECONDS) as sock,
            sock.makefile("rwb", buffering=0) as self.stream,
        ):
            words = b"user\0postgres\0database\0postgres\0\0"
            self.stream.write(struct.pack("!II", 8 + len(words), 3 << 16) + words)
            self._rows()
            self.query(f"CREATE TABLE pairs{self.number} (key text PRIMARY KEY, value text)")
            yield

    def put(self, key: str, value: str) -> None:
        self.query(f"INSERT INTO pairs{self.number} VALUES ('{key}', '{value}')")

    def get(self, key: str) -> str:
        rows = self.query(f"SELECT value FROM pairs{self.number} WHERE key = '{key}'")
        return rows[0] if rows else ""

    def query(self, text: str) -> list[str]:
        """The first column of each row."""
        body = f"{text}\0".encode()
        self.stream.write(b"Q" + struct.pack("!I", 4 + len(body)) + body)
        return self._rows()

    def _rows(self) -> list[str]:
        rows = []
        for _ in itertools.count():
            kind, size = struct.unpack("!cI", self._read(5))
            body = self._read(size - 4)
            if kind == b"E":
                raise ValueError(body.replace(b"\0", b" ").decode())
            if kind == b"D":
                rows.append(body[6:].decode())
            if kind == b"Z":
                break
        return rows

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.stream.read(size - len(data))
            if not piece:
                raise ConnectionResetError("the program closed the connection")
            data += piece
        return data


@dataclass(frozen=True)
class Program:
    """A row of docs/compatibility.md."""

    name: str
    command: tuple[str, ...]
    load: type[Load] = LineLoad
    image: str = "programs"
    container: dict[str, Any] = field(default_factory=dict)

    def placed(self, image: str) -> dict[str, Any]:
        """Its container, for a placement's spec."""
        ready = {"tcpSocket": {"port": self.load.port}, "periodSeconds": 1}
        return {
            "image": image,
            "command": list(self.command),
            "readinessProbe": ready,
            "terminationGracePeriodSeconds": 1,
            **self.container,
        }


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PROGRAMS = (
    Program(
        "redis", words("redis-server --bind 0.0.0.0 --protected-mode no"), RedisLoad, "redis"
    ),
    Program(
        "postgresql",
        words(
            "setpriv --reuid=postgres --regid=postgres --clear-groups "
            "postgres -D /data/postgres -c listen_addresses=* -c fsync=off"
        ),
        PostgresLoad,
    ),
    Program("nginx", words("nginx -c /programs/nginx.conf"), HttpLoad),
    Program("memcached", words("memcached -u nobody -p 7000"), MemcachedLoad),
    Program("java", words("java -cp /programs Server")),
    Program("node", words("node /programs/server.js")),
    Program("go", words("/programs/server-go")),
    Program("python", words("python3 /programs/threads.py")),
    Program("sqlite", words("python3 /programs/sqlite.py")),
    Program(
        "shell",
        (
            "socat", f"TCP-LISTEN:{PORT},fork,reuseaddr",
            "EXEC:bash --rcfile /programs/shell.rc --noediting -i,pty,setsid,ctty,stderr,echo=0",
        ),
    ),
)  # fmt: skip
