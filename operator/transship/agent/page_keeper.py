"""The process that keeps a restored container's pages until the container has taken them all.

The target's agent starts one per incoming migration, before the freeze. It receives the source's
page stream into a store and answers CRIU's lazy-pages daemon from there. It is a process of its own
because the container depends on it from its resume to its last page (0.3 s for 256 MiB), which the
agent's end must not cut short; and because its threads then share no interpreter with the agent.

It hears of one thing on its control socket, `{"expect": [[pid, address, pages], ...]}`: what CRIU's
page maps say will be asked for. The answer, once all of that is stored, is `{"pages": N}`, or
`{"error": TEXT}`. From then on it needs nobody, and ends when the daemon does.
"""

from __future__ import annotations

import argparse
import json
import socket
import ssl
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from transship.common.errors import TransshipError
from transship.common.tls import server_context
from transship.runtime.page_stream import answer
from transship.transfer.lazy_server import LazyServer
from transship.transfer.page_ranges import PageRange, total
from transship.transfer.page_receiver import PageReceiver
from transship.transfer.page_store import PageMissing, PageStore

FAULT_PAGES = 1


class Stock(PageStore):
    """A store in which one can wait for pages that are still on their way."""

    def __init__(self) -> None:
        super().__init__()
        self._news = threading.Condition()
        self._over = ""
        self._whole = False
        self._ended = threading.Event()

    def keep(self, pages: PageRange) -> None:
        super().keep(pages)
        with self._news:
            self._news.notify_all()

    def keep_zero(self, pages: PageRange) -> None:
        super().keep_zero(pages)
        with self._news:
            self._news.notify_all()

    def end_intake(self, why: str) -> None:
        """No page will come any more: whoever waits for one hears why."""
        with self._news:
            self._over = why
            self._news.notify_all()
        self._ended.set()

    def wait_for(self, ranges: Sequence[PageRange]) -> None:
        """Return when all are stored. Raises PageMissing when some never will be."""
        with self._news:
            while missing := self.missing(ranges):
                if self._over:
                    raise PageMissing(f"{total(missing)} pages have not arrived: {self._over}")
                self._news.wait()

    def wait_for_all(self, expected: Sequence[PageRange]) -> None:
        """Return when the source has ended and all these are stored. Raises PageMissing.

        Looks once, at the end: looking takes 20 ms for 256 MiB, in which nothing is received.
        """
        self._ended.wait()
        self.wait_for(expected)

    def open_gate(self) -> None:
        """All is there: the daemon may take what it likes."""
        with self._news:
            self._whole = True
            self._news.notify_all()

    def gate(self, wanted: PageRange) -> None:
        """Let the daemon's prefetching wait: it competes with what the container waits for.

        A fault asks for one page (CRIU's own, in the middle of a restore); prefetching for many.
        """
        with self._news:
            while wanted.pages > FAULT_PAGES and not self._whole:
                self._news.wait()

    def fetch(self, hole: PageRange) -> bytes:
        """The content of pages that are asked for while they are still on their way."""
        self.wait_for([hole])
        return b"".join(self.view(hole))


def keep(
    *, listener: socket.socket, pages: socket.socket, control: socket.socket,
    context: ssl.SSLContext, peer: str,
) -> None:  # fmt: skip
    """Receive, serve and end. `pages` is connected to the daemon, `control` to the agent."""
    stock = Stock()
    server = LazyServer(pages, stock, fallback=stock.fetch, gate=stock.gate)
    threading.Thread(
        target=_receive, args=(listener, context, peer, stock), name="receive", daemon=True
    ).start()
    server.start()
    if _fulfil(control, stock):
        while not server.wait(timeout_seconds=3600):
            pass


def _receive(listener: socket.socket, context: ssl.SSLContext, peer: str, stock: Stock) -> None:
    try:
        receiver = PageReceiver(answer(listener, context, peer=peer), stock)
        receiver.run()
    except (TransshipError, OSError) as e:
        stock.end_intake(str(e))
    else:
        stock.end_intake("the source has sent no more")


def _fulfil(control: socket.socket, stock: Stock) -> bool:
    """Whether all that the agent expects has come; its end before that is the end of this."""
    with control.makefile("rwb", buffering=0) as lines:
        line = lines.readline()
        if not line:
            return False
        expected = [PageRange(*numbers) for numbers in json.loads(line)["expect"]]
        try:
            stock.wait_for_all(expected)
        except PageMissing as e:
            lines.write(json.dumps({"error": e.message}).encode() + b"\n")
            return False
        lines.write(json.dumps({"pages": total(expected)}).encode() + b"\n")
        stock.open_gate()
        return True


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--listener", "--pages", "--control"):
        parser.add_argument(name, type=int, required=True, help="an inherited descriptor")
    for name in ("--ca", "--cert", "--key"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--peer", required=True, help="common name of the source's certificate")
    given = parser.parse_args(words)
    keep(
        listener=socket.socket(fileno=given.listener),
        pages=socket.socket(fileno=given.pages),
        control=socket.socket(fileno=given.control),
        context=server_context(authority=given.ca, certificate=given.cert, key=given.key),
        peer=given.peer,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
