"""Holds conversations over the network, as client or server, and says whether anything was lost.

It runs in containers, on nodes and in the tests' own process. Everything that is sent is a count of
64-bit words, so a word that was lost, doubled or changed places shows where it arrives. An order is
a line of JSON to port 7100, answered by one; a client's first line to port 7200 says which kind
of conversation it wants. Connections to port 7202 are not accepted before the order `stop`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

ORDERS, TALK, ECHO, BACKLOG = 7100, 7200, 7201, 7202
BLOCK_WORDS = 8192
WORD = struct.Struct("<Q")
BLOCK = struct.Struct(f"<{BLOCK_WORDS}Q")
UNREAD_BLOCKS = 4
UNSENT_BLOCKS = 64
PAUSE_SECONDS = 0.002
DATAGRAM_PAUSE_SECONDS = 0.02
DIAL_PAUSE_SECONDS = 0.05
IDLE_TIMEOUT_SECONDS = 200.0
END_SECONDS = 40.0
TIED, READY = "tied", b"ready\n"
# include/uapi/linux/tcp.h, struct tcp_info
INFO = {
    "backoff": ("B", 4), "total_retrans": ("I", 100), "dsack_dups": ("I", 216),
    "reordered": ("I", 220), "total_rto": ("H", 240),
}  # fmt: skip


def block(number: int) -> bytes:
    first = number * BLOCK_WORDS
    return BLOCK.pack(*range(first, first + BLOCK_WORDS))


class Talk:
    """One conversation: its connection, and what became of it."""

    def __init__(self, connection: socket.socket, kind: str) -> None:
        self.connection, self.kind = connection, kind
        self.stopped = threading.Event()
        self.ended = threading.Event()
        self.sent = self.received = 0
        self.gap_milliseconds = 0.0
        self.error = ""

    def run(self, work: Callable[[Talk], None]) -> None:
        try:
            work(self)
        except Exception as e:
            self.error = f"{type(e).__name__}: {e}"
        self.info = tcp_info(self.connection)
        self.connection.close()
        self.ended.set()

    def start(self, work: Callable[[Talk], None]) -> None:
        threading.Thread(target=self.run, args=(work,), daemon=True).start()

    def report(self) -> dict[str, Any]:
        if not self.ended.is_set():
            self.info = tcp_info(self.connection)
        return {
            "kind": self.kind, "sent": self.sent, "received": self.received, "error": self.error,
            "gap": self.gap_milliseconds, **self.info,
        }  # fmt: skip

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)
        self.sent += len(data)

    def expect(self, wanted: bytes) -> None:
        """Read exactly this."""
        got = b""
        while len(got) < len(wanted):
            more = self.connection.recv(len(wanted) - len(got))
            if not more:
                raise ConnectionError(f"the end after {self.received + len(got)} bytes")
            got += more
        if got != wanted:
            at = next(i for i, (a, b) in enumerate(zip(got, wanted, strict=True)) if a != b)
            raise ValueError(f"another byte than expected at {self.received + at}")
        self.received += len(wanted)

    def expect_stream(self) -> None:
        """Read a count until its end, which may come anywhere."""
        number, rest = 0, b""
        while True:
            more = self.connection.recv(8 * BLOCK_WORDS)
            rest += more
            while len(rest) >= 8 * BLOCK_WORDS or (not more and rest):
                if block(number)[: len(rest)] != rest[: 8 * BLOCK_WORDS]:
                    raise ValueError(f"another byte than expected after {self.received}")
                rest = rest[8 * BLOCK_WORDS :]
                number += 1
            self.received += len(more)
            if not more:
                return

    def expect_end(self) -> None:
        if more := self.connection.recv(1):
            raise ValueError(f"{more!r} after the end")

    def stream(self, rate: float = 0.0) -> None:
        """Send a count until stopped, as fast as it goes or a rate (bytes a second); then end."""
        number, began = 0, time.monotonic()
        while not self.stopped.is_set():
            self.send(block(number))
            number += 1
            if rate:
                time.sleep(max(0.0, began + self.sent / rate - time.monotonic()))
        self.connection.shutdown(socket.SHUT_WR)


def tcp_info(connection: socket.socket) -> dict[str, Any]:
    if connection.type != socket.SOCK_STREAM:
        return {}
    raw = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return {name: struct.unpack_from(f"={code}", raw, at)[0] for name, (code, at) in INFO.items()}


RATE = 4e6


# what the client does, and what the server does, in each kind of conversation


def ask(talk: Talk) -> None:
    number, last = 0, 0.0
    while not talk.stopped.is_set():
        talk.send(WORD.pack(number))
        talk.expect(WORD.pack(number))
        now = time.monotonic()
        talk.gap_milliseconds = max(talk.gap_milliseconds, (now - (last or now)) * 1e3)
        number, last = number + 1, now
        time.sleep(PAUSE_SECONDS)


def answer(talk: Talk) -> None:
    while data := talk.connection.recv(8 * BLOCK_WORDS):
        talk.received += len(data)
        talk.send(data)


def idle(talk: Talk) -> None:
    talk.send(WORD.pack(1))
    talk.expect(WORD.pack(1))
    talk.stopped.wait()
    talk.send(WORD.pack(2))
    talk.expect(WORD.pack(2))


def upload(talk: Talk) -> None:
    talk.stream()
    talk.expect(WORD.pack(talk.sent))


def take(talk: Talk) -> None:
    talk.expect_stream()
    talk.send(WORD.pack(talk.received))


def download(talk: Talk) -> None:
    def stop() -> None:
        talk.stopped.wait()
        talk.connection.shutdown(socket.SHUT_WR)

    threading.Thread(target=stop, daemon=True).start()
    talk.expect_stream()


def give(talk: Talk) -> None:
    def stop() -> None:
        talk.expect_end()
        talk.stopped.set()

    threading.Thread(target=stop, daemon=True).start()
    talk.stream()


def both(talk: Talk) -> None:
    reader = threading.Thread(target=talk.expect_stream, daemon=True)
    reader.start()
    talk.stream(RATE)
    reader.join()


def give_both(talk: Talk) -> None:
    writer = threading.Thread(target=talk.stream, args=(RATE,), daemon=True)
    writer.start()
    talk.expect_stream()
    talk.stopped.set()
    writer.join()


def half_closed(talk: Talk) -> None:
    """The client has said all; the server goes on."""
    talk.send(block(0))
    talk.connection.shutdown(socket.SHUT_WR)
    talk.expect_stream()


def go_on(talk: Talk) -> None:
    talk.expect(block(0))
    talk.expect_end()
    talk.stream(RATE)


def half_heard(talk: Talk) -> None:
    """The server has said all; the client goes on."""
    talk.expect(block(0))
    talk.expect_end()
    talk.stream(RATE)


def fall_silent(talk: Talk) -> None:
    talk.send(block(0))
    talk.connection.shutdown(socket.SHUT_WR)
    talk.expect_stream()


def unread(talk: Talk) -> None:
    """What the server has not read yet."""
    for number in range(UNREAD_BLOCKS):
        talk.send(block(number))
    talk.expect(WORD.pack(talk.sent))


def read_late(talk: Talk) -> None:
    talk.stopped.wait()
    for number in range(UNREAD_BLOCKS):
        talk.expect(block(number))
    talk.send(WORD.pack(talk.received))


def unsent(talk: Talk) -> None:
    """What the server could not send yet: the client's window is shut."""
    talk.stopped.wait()
    for number in range(UNSENT_BLOCKS):
        talk.expect(block(number))
    talk.expect_end()


def send_much(talk: Talk) -> None:
    for number in range(UNSENT_BLOCKS):
        talk.send(block(number))


def queued(talk: Talk) -> None:
    """Nobody has accepted the connection yet."""
    talk.send(block(0))
    talk.expect(block(0))


def dial(talk: Talk) -> None:
    """Open one connection after the other; each answers at once, and again at the end."""
    target, opened, resets = talk.connection.getpeername()[:2], [], 0
    while not talk.stopped.wait(DIAL_PAUSE_SECONDS):
        try:
            opened.append(dialled(target))
        except (ConnectionResetError, BrokenPipeError):
            # its handshake was half done at the very moment of the diversion: there is one of these
            resets += 1
            if resets > 1:
                raise
    for each in opened:
        each.send(WORD.pack(2))
        each.expect(WORD.pack(2))
        each.connection.close()
    talk.send(WORD.pack(len(opened)))
    talk.expect(WORD.pack(len(opened)))


def dialled(target: tuple[str, int]) -> Talk:
    talk = Talk(connect(target), "dial")
    talk.connection.sendall(json.dumps(["ask", f"{id(talk)}"]).encode() + b"\n")
    talk.send(WORD.pack(1))
    talk.expect(WORD.pack(1))
    return talk


CLIENTS = {
    "ask": ask, "dial": dial, "idle": idle, "upload": upload, "download": download, "both": both,
    "half_closed": half_closed, "half_heard": half_heard, "unread": unread, "unsent": unsent,
    "queued": queued,
}  # fmt: skip
SERVERS = {
    "ask": answer, "dial": answer, "idle": answer, "upload": take, "download": give,
    "both": give_both, "half_closed": go_on, "half_heard": fall_silent, "unread": read_late,
    "unsent": send_much,
}  # fmt: skip


def ask_datagrams(talk: Talk) -> None:
    """Each is asked again only after its answer: one that is lost ends it."""
    ask(talk)


def stream_datagrams(talk: Talk) -> None:
    """Numbered datagrams, echoed; what was lost on the way is what is missing at the end.

    They may change places: at the release one that just comes can pass those that waited.
    """
    talk.connection.settimeout(DATAGRAM_PAUSE_SECONDS)
    number, came, last_sent = 0, [], 0.0

    def hear() -> None:
        while True:
            try:
                came.append(WORD.unpack_from(talk.connection.recv(2048))[0])
            except TimeoutError:
                return

    while not talk.stopped.is_set():
        talk.connection.send(WORD.pack(number))
        number, last_sent = number + 1, time.monotonic()
        hear()
    while time.monotonic() < last_sent + 2.0 and len(came) < number:
        hear()
    talk.sent, talk.received = number, len(set(came))
    if len(set(came)) < number:
        raise ValueError(f"{number - len(set(came))} of {number} datagrams were lost")


DATAGRAMS = {"udp_ask": ask_datagrams, "udp_stream": stream_datagrams}


class Talker:
    """All the conversations of one place."""

    def __init__(self) -> None:
        self.clients: dict[str, Talk] = {}
        self.served: dict[str, Talk] = {}
        self.stopped = threading.Event()

    def open(self, name: str, kind: str, address: str) -> dict[str, Any]:
        if kind in DATAGRAMS:
            connection = connect((address, ECHO), socket.SOCK_DGRAM)
        else:
            connection = connect((address, BACKLOG if kind == "queued" else TALK))
            if kind != "queued":
                connection.sendall(json.dumps([kind, name]).encode() + b"\n")
        self.clients[name] = Talk(connection, kind)
        self.clients[name].start({**CLIENTS, **DATAGRAMS}[kind])
        return {}

    def look(self) -> dict[str, Any]:
        return {
            "clients": {name: talk.report() for name, talk in self.clients.items()},
            "served": {name: talk.report() for name, talk in self.served.items()},
        }

    def stop(self) -> dict[str, Any]:
        """Let the conversations that this side ends come to their end."""
        self.stopped.set()
        for talk in [*self.clients.values(), *self.served.values()]:
            talk.stopped.set()
        return {}

    def finish(self) -> dict[str, Any]:
        """Wait for the end of all, and say what became of them."""
        late = time.monotonic() + END_SECONDS
        for talk in [*self.clients.values(), *self.served.values()]:
            if not talk.ended.wait(max(0.0, late - time.monotonic())):
                talk.error = talk.error or "did not come to an end"
        seen = self.look()
        self.clients.clear()
        self.served.clear()
        self.stopped.clear()
        return seen

    def serve(self) -> None:
        listener, backlog = listen(TALK), listen(BACKLOG)
        echo = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        echo.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        echo.bind(("::", ECHO))
        for work in (self._talk, self._echo, self._accept_late):
            argument = {self._talk: listener, self._echo: echo}.get(work, backlog)
            threading.Thread(target=work, args=(argument,), daemon=True).start()
        orders = listen(ORDERS)
        sys.stdout.buffer.write(READY)
        sys.stdout.flush()
        while True:
            connection, _ = orders.accept()
            threading.Thread(target=self._obey, args=(connection,), daemon=True).start()

    def _obey(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            line = stream.readline()
            if not line:
                return  # a probe
            name, arguments = json.loads(line)
            try:
                reply = getattr(self, name)(*arguments)
            except Exception as e:
                reply = {"error": f"{type(e).__name__}: {e}"}
            stream.write(json.dumps(reply).encode() + b"\n")

    def _talk(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self._welcome, args=(connection,), daemon=True).start()

    def _welcome(self, connection: socket.socket) -> None:
        tune(connection)
        line = b""
        while not line.endswith(b"\n"):
            more = connection.recv(1)
            if not more:
                return
            line += more
        kind, name = json.loads(line)
        self.served[name] = talk = Talk(connection, kind)
        talk.run(SERVERS[kind])

    def _accept_late(self, listener: socket.socket) -> None:
        while True:
            self.stopped.wait()
            connection, peer = listener.accept()
            self.served[f"queued {peer}"] = talk = Talk(connection, "queued")
            talk.start(answer)

    def _echo(self, echo: socket.socket) -> None:
        while True:
            data, peer = echo.recvfrom(2048)
            echo.sendto(data, peer)


def connect(target: tuple[str, int], kind: int = socket.SOCK_STREAM) -> socket.socket:
    connection = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET, kind)
    connection.settimeout(IDLE_TIMEOUT_SECONDS)
    if kind == socket.SOCK_STREAM:
        tune(connection)
    connection.connect(target)
    return connection


def tune(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 30)


def listen(port: int) -> socket.socket:
    return socket.create_server(
        ("::", port), family=socket.AF_INET6, backlog=256, dualstack_ipv6=True
    )


def end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if TIED in sys.argv:
        threading.Thread(target=end_with_input, daemon=True).start()
    Talker().serve()
