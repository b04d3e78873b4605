"""The page server's end of the source's page streams: accepting, receiving, and their ends."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable

from loguru import logger

from transship.common.errors import Refused, TransshipError
from transship.common.threads import start_essential_thread
from transship.memory.page_server.page_index import Milestone
from transship.memory.page_server.page_store import PageStore
from transship.memory.postcopy.page_requests import PageRequests
from transship.memory.transfer.channel import accept_page_stream
from transship.memory.transfer.receiver import PageReceiver


class PageStreams:
    """Receives page streams into a store, each in a thread. There is one until pages are final."""

    def __init__(
        self,
        store: PageStore,
        *,
        context: ssl.SSLContext,
        peer: str,
        on_stored: Callable[[], None],
        page_requests: PageRequests,
    ) -> None:
        """`peer`: the common name of the source's certificate. `on_stored`: called per batch."""
        self._store = store
        self._context = context
        self._peer = peer
        self._on_stored = on_stored
        self._page_requests = page_requests
        self._streams: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._begun = False
        self.broken = ""
        """Why the last stream broke; empty if it did not."""

    def listen(self, listener: socket.socket) -> None:
        """Accept streams in a thread, without an end."""
        start_essential_thread(lambda: self._accept(listener), name="accepting page streams")

    def wait_ended(self, seconds: float) -> None:
        """Wait for the end of open streams: the source waits to learn that all pages arrived."""
        deadline = time.monotonic() + seconds
        for thread in tuple(self._streams):
            thread.join(max(0.0, deadline - time.monotonic()))

    def _accept(self, listener: socket.socket) -> None:
        while True:
            plain, _ = listener.accept()
            receive = threading.Thread(target=self._receive, args=(plain,), daemon=True)
            self._streams.add(receive)
            receive.start()

    def _receive(self, plain: socket.socket) -> None:
        try:
            with accept_page_stream(plain, self._context, peer=self._peer) as channel:
                self._take(channel)
        except (TransshipError, OSError) as e:
            logger.warning("a page stream was refused: {}", e)
        except Exception:
            logger.exception("a page stream has failed")
        finally:
            self._streams.discard(threading.current_thread())
            self._on_stored()

    def _take(self, channel: ssl.SSLSocket) -> None:
        with self._lock:
            if self._begun and not self._store.final:
                raise Refused("accepting a page stream: there is one already")
            self._begun = True
        try:
            PageReceiver(
                channel, self._store, on_stored=self._on_stored, page_requests=self._page_requests
            ).run()
        except (TransshipError, OSError) as e:
            logger.warning("a page stream has broken off: {}", e)
            self.broken = str(e)
        except Exception as e:  # something that no source sends
            self.broken = f"{type(e).__name__}: {e}"
            raise
        else:
            self._store.note(Milestone.ENDED)
