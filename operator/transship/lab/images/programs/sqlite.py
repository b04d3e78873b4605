"""A database file with a write-ahead log: a process per connection writes, under its locks."""

from __future__ import annotations

import socketserver
import sqlite3

PATH = "/data/values.db"
WAIT_SECONDS = 30.0


def opened() -> sqlite3.Connection:
    return sqlite3.connect(PATH, timeout=WAIT_SECONDS, isolation_level=None)


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        database = opened()
        for line in self.rfile:
            verb, key, *value = line.decode().split()
            if verb == "put":
                database.execute("INSERT INTO pairs VALUES (?, ?)", (key, value[0]))
                self.wfile.write(b"ok\n")
            else:
                [found] = database.execute("SELECT value FROM pairs WHERE name = ?", (key,))
                self.wfile.write(f"{found[0]}\n".encode())


if __name__ == "__main__":
    first = opened()
    first.execute("PRAGMA journal_mode = WAL")
    first.execute("CREATE TABLE pairs (name TEXT PRIMARY KEY, value TEXT)")
    first.close()
    socketserver.ForkingTCPServer(("", 7000), Handler).serve_forever()
