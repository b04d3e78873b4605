"""What a page store has, as bytes."""

from __future__ import annotations

import ctypes

from transship.linux.pages import PageRange
from transship.memory.page_server.page_index import STORED, ZERO
from transship.memory.page_server.page_store import PageStore


def content(store: PageStore, pages: PageRange) -> bytes:
    found = []
    for run in store.runs(pages):
        assert run.mark in (STORED, ZERO), run
        size = run.pages.bytes
        found.append(ctypes.string_at(run.content, size) if run.mark == STORED else bytes(size))
    return b"".join(found)
