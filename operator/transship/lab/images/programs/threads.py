"""A server with a thread per connection, and others that pass a turn around."""

from __future__ import annotations

import socketserver
import threading
import time

THREADS = 16
values: dict[str, str] = {}


class Ring:
    """Whose turn it is: one thread after the other, for ever."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._turn = 0

    def join(self, number: int) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._turn == number)
                self._turn = (number + 1) % THREADS
                self._changed.notify_all()
            time.sleep(0.001)


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            verb, key, *value = line.decode().split()
            if verb == "put":
                values[key] = value[0]
            self.wfile.write(b"ok\n" if verb == "put" else f"{values[key]}\n".encode())


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


if __name__ == "__main__":
    ring = Ring()
    for number in range(THREADS):
        threading.Thread(target=ring.join, args=(number,), daemon=True).start()
    Server(("", 7000), Handler).serve_forever()
