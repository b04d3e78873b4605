"""What test_lazy_checkpoint.py has a node do: moves in which CRIU carries no memory.

The pages are read from the frozen source, and served to CRIU's lazy-pages daemon on the target, by
the smallest page server that does. Run like checkpoint_scenarios.py, which has to be importable.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import checkpoint_scenarios as base
from checkpoint_scenarios import NAME, TIMEOUT_SECONDS, Corner, Stage, until

from transship.runtime import pagemaps, restore
from transship.runtime.checkpoint import Dump, Dumper, DumpRequest, Pages
from transship.runtime.freezer import FreezerState

PAGE = 4096
REQUEST = struct.Struct("=IIQQQ")
GET, ADD, FORCE_CLOSE = 7, 6 | 4 << 16, 0x1024
WHOLE, BROKEN = -1, -2

PROGRAM = """
import os, signal, socket, sys, time, zlib
mebibytes = int(sys.argv[1])
memory = bytearray(b"".join(os.urandom(4080) + n.to_bytes(16, "big") for n in range(mebibytes << 8)))
if "child" in sys.argv and os.fork() == 0:
    memory[:len(memory) // 2] = os.urandom(len(memory) // 2)
whole = zlib.crc32(memory)
server = socket.create_server(("127.0.0.1", 0))
near = socket.create_connection(server.getsockname())
far, _ = server.accept()
number = 0
while True:
    number += 1
    near.sendall(number.to_bytes(8, "big"))
    print(int.from_bytes(far.recv(8), "big"), flush=True)
    if memory and os.path.exists("/verify"):
        print(-1 if zlib.crc32(memory) == whole else -2, flush=True)
        memory = None
    time.sleep(0.01)
"""
base.PROGRAM = PROGRAM

Memory = dict[tuple[int, int], bytes]
"""A page by the process (as the container counts) and the address."""


@contextmanager
def timed(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{what}: {(time.monotonic() - began) * 1000:.1f} ms", file=sys.stderr)


async def lazy_dump(side: Corner) -> Dump:
    shutil.rmtree(side.layout.images(NAME), ignore_errors=True)
    request = DumpRequest(NAME, side.layout, Pages.LAZY, TIMEOUT_SECONDS)
    async with await Dumper.ready(request) as dumper:
        with timed("freeze"):
            await dumper.freeze()
        with timed("dump"):
            return await dumper.dump()


def size(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def snapshot(dump: Dump) -> Memory:
    """All that the images leave out, read from the frozen tasks."""
    memory: Memory = {}
    outside = {process.inside: process.outside for process in dump.processes}
    for one in pagemaps.read(dump.images):
        with Path(f"/proc/{outside[one.process]}/mem").open("rb", buffering=0) as file:
            for address in range(one.address, one.address + one.pages * PAGE, PAGE):
                file.seek(address)
                memory[one.process, address] = file.read(PAGE)
    return memory


Scenario = Callable[[Stage], Coroutine[Any, Any, None]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(play: Scenario) -> Scenario:
    SCENARIOS[play.__name__] = play
    return play


@scenario
async def a_lazy_dump_has_no_memory_and_its_way_back_is_a_thaw(stage: Stage) -> None:
    for mebibytes in (64, 256):
        await stage.start(str(mebibytes))
        for _ in range(3):
            dump = await lazy_dump(stage.source)
            await stage.source.stands_still()
            left = sum(one.pages for one in pagemaps.read(dump.images))
            assert left * PAGE > mebibytes << 20
            assert size(dump.images.glob("pages-*.img")) < 1 << 20
            assert [one.inside for one in dump.processes] == [1]
            stage.source.freezer.thaw()
            await stage.source.goes_on()
        await stage.source.clear()
        await stage.target.clear()


def main(name: str, image: str, cgroup: str) -> None:
    base.SCENARIOS = SCENARIOS
    base.main(name, image, cgroup)


if __name__ == "__main__":
    main(*sys.argv[1:])
