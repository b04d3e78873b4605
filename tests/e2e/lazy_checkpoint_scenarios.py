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
from base64 import b64decode
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import checkpoint_scenarios as base
from checkpoint_scenarios import A_WHILE_SECONDS, NAME, TIMEOUT_SECONDS, Corner, Stage, until

from transship.api.reasons import Reason
from transship.runtime import orders, pagemaps, restore, veil
from transship.runtime.checkpoint import Dump, Dumper, DumpRequest, Pages
from transship.runtime.criu_rpc import split
from transship.runtime.freezer import FreezerState
from transship.runtime.lazy_daemon import LazyDaemon

PAGE = 4096
REQUEST = struct.Struct("=IIQQQ")
GET, ADD, FORCE_CLOSE = 7, 6 | 4 << 16, 0x1024
WHOLE, BROKEN = -1, -2

PROGRAM = """
import os, signal, socket, sys, time, zlib
memory = bytearray(os.urandom(1 << 20) * int(sys.argv[1]))
for page in range(0, len(memory), 4096):
    memory[page:page + 8] = page.to_bytes(8, "big")
pool = [bytearray(b"x") * (2 << 20) for _ in range(16)]  # one mapping each
if "child" in sys.argv and os.fork() == 0:
    memory[:len(memory) // 2] = os.urandom(len(memory) // 2)
if "stopped" in sys.argv:
    child = os.fork()
    while child == 0:
        time.sleep(0.01)
    os.kill(child, signal.SIGSTOP)
whole = zlib.crc32(memory)
server = socket.create_server(("127.0.0.1", 0))
near = socket.create_connection(server.getsockname())
far, _ = server.accept()
number = 0
while True:
    number += 1
    near.sendall(number.to_bytes(8, "big"))
    print(int.from_bytes(far.recv(8), "big"), flush=True)
    if "busy" in sys.argv and os.path.exists("/verify") and pool:
        pool.pop()  # unmapped
        part = pool.pop()
        part.extend(bytes(4 << 20))  # mapped elsewhere
        if part.count(b"x") != 2 << 20:
            print(-2, flush=True)
        child = os.fork()
        if child == 0:
            os._exit(zlib.crc32(memory) != whole)
        if os.waitpid(child, 0)[1] != 0:
            print(-2, flush=True)
    if memory and not (pool and "busy" in sys.argv) and os.path.exists("/verify"):
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
            shutil.rmtree(stage.source.layout.images(NAME), ignore_errors=True)
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


RUN_SUBJECT = """
import os, time
number = 0
while not os.path.exists("/subject"):
    number += 1
    print(number, flush=True)
    time.sleep(0.01)
os.execv("/subject", ["/subject"])
"""


async def become_subject(corner: Corner) -> None:
    """Bring the program that test_lazy_checkpoint.py has compiled in, and have it run."""
    path = corner.layout.rootfs(NAME) / "new"
    path.write_bytes(b64decode(os.environ["SUBJECT"]))
    path.chmod(0o755)
    path.rename(path.with_name("subject"))
    [pid] = corner.freezer.processes()
    await until(lambda: Path(f"/proc/{pid}/exe").readlink().name == "subject")
    await until(lambda: len(list(Path(f"/proc/{pid}/task").iterdir())) == 9)
    await corner.goes_on()


@scenario
async def images_are_the_same_whether_criu_sees_the_memory_or_not(stage: Stage) -> None:
    base.PROGRAM = RUN_SUBJECT
    await stage.start()
    await become_subject(stage.source)
    await stage.source.freezer.freeze()
    seen = []
    for library in (veil.LIBRARY, Path("/nowhere")):
        shutil.rmtree(stage.source.layout.images(NAME), ignore_errors=True)
        veil.LIBRARY = library
        dump = await lazy_dump(stage.source)
        await stage.source.stands_still()
        assert any(dump.images.glob("work/veil/*.hidden")) == library.exists()
        pages = {
            (one.address, one.address + one.pages * PAGE) for one in pagemaps.read(dump.images)
        }
        seen.append((mappings(dump), merged(pages), (dump.images / "pages-1.img").read_bytes()))
    veiled, plain = seen
    assert veiled[0] == plain[0]
    assert veiled[1] == plain[1]
    assert len(plain[1]) > 8192
    assert veiled[2] == plain[2]
    stage.source.freezer.thaw()
    await stage.source.goes_on()


def mappings(dump: Dump) -> list[bytes]:
    """What the image of process 1 says of its address space; guard pages last, in any order."""
    fields = [raw for _, _, raw in split((dump.images / "mm-1.img").read_bytes()[12:])]
    return sorted(fields)


def merged(pages: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """Neighbours made one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(pages):
        if found and found[-1][1] == start:
            found[-1] = found[-1][0], end
        else:
            found.append((start, end))
    return found


class PageServer(threading.Thread):
    """Answers one daemon from a snapshot, until it says that it has all (or breaks off earlier).

    CRIU itself wants pages in the middle of a restore: so it has to answer from the beginning.
    """

    def __init__(
        self, sock: socket.socket, memory: Memory, *, breaks_after: int | None = None
    ) -> None:
        super().__init__(daemon=True)
        self._sock = sock.dup()
        self._breaks_after = breaks_after
        self.memory = memory
        self.requests = 0
        self.pages = 0
        self.start()

    def run(self) -> None:
        with self._sock:
            while self.requests != self._breaks_after:
                head = self._sock.recv(REQUEST.size, socket.MSG_WAITALL)
                command, _, pages, address, process = REQUEST.unpack(head)
                if command & 0xFFFF != GET:
                    assert command == FORCE_CLOSE, command
                    self._sock.sendall(bytes(4))
                    return
                self.requests += 1
                self.pages += pages
                self._sock.sendall(REQUEST.pack(ADD, 0, pages, address, process))
                for at in range(address, address + pages * PAGE, PAGE):
                    self._sock.sendall(self.memory[process, at])


async def lazy_restore(side: Corner, daemon: LazyDaemon) -> restore.Restored:
    side.runtime.mount(NAME)
    console = orders.load(side.layout, NAME).console
    with timed("daemon"):
        await daemon.start()
    request = restore.RestoreRequest(NAME, side.layout, console, TIMEOUT_SECONDS, pages=daemon)
    with timed("restore"):
        return await restore.restore_held(request)


def bring_images(dump: Dump, side: Corner) -> None:
    for path in dump.images.iterdir():
        if path.is_file():
            shutil.copy(path, side.layout.images(NAME))


async def move(stage: Stage, *, breaks_after: int | None = None) -> tuple[LazyDaemon, PageServer]:
    """Up to the held copy on the target; its memory comes to it by and by."""
    shutil.rmtree(stage.target.layout.images(NAME), ignore_errors=True)
    with timed("making the daemon ready"):
        daemon = await LazyDaemon.ready(stage.target.layout, NAME)
    shutil.rmtree(stage.source.layout.images(NAME), ignore_errors=True)
    dump = await lazy_dump(stage.source)
    bring_images(dump, stage.target)
    memory = snapshot(dump)
    server = PageServer(daemon.pages, memory, breaks_after=breaks_after)
    await lazy_restore(stage.target, daemon)
    assert stage.target.freezer.state() is FreezerState.FROZEN
    return daemon, server


async def verified(side: Corner, *, processes: int = 1) -> None:
    (side.layout.rootfs(NAME) / "verify").touch()
    await until(lambda: sum(number < 0 for number in side.numbers()) == processes)
    assert BROKEN not in side.numbers()
    await side.goes_on()


@scenario
async def memory_given_to_a_held_copy_is_whole_and_the_connection_goes_on(stage: Stage) -> None:
    for mebibytes in (64, 256):
        await stage.start(str(mebibytes))
        daemon, server = await move(stage)
        with timed("rest of the memory"):
            await daemon.finish(timeout_seconds=TIMEOUT_SECONDS)
        assert server.pages == len(server.memory)
        assert stage.target.numbers() == []
        await stage.source.stands_still()
        restore.resume(stage.target.layout, NAME)
        with timed("resume"):
            await until(stage.target.numbers)
        assert stage.target.numbers()[0] == stage.source.last() + 1
        await restore.discard(stage.source.layout, NAME)
        await verified(stage.target)
        await stage.source.clear()
        await stage.target.clear()


@scenario
async def memory_given_to_running_processes_is_whole(stage: Stage) -> None:
    await stage.start("64", "child", "not-root")
    daemon, _ = await move(stage)
    (stage.target.layout.rootfs(NAME) / "verify").touch()
    restore.resume(stage.target.layout, NAME)
    with timed("first word"):
        await until(stage.target.numbers)
    with timed("rest of the memory"):
        await daemon.finish(timeout_seconds=TIMEOUT_SECONDS)
    await verified(stage.target, processes=2)


@scenario
async def memory_is_whole_for_children_and_mappings_that_come_and_go(stage: Stage) -> None:
    await stage.start("64", "busy")
    daemon, _ = await move(stage)
    (stage.target.layout.rootfs(NAME) / "verify").touch()
    restore.resume(stage.target.layout, NAME)
    await daemon.finish(timeout_seconds=TIMEOUT_SECONDS)
    await verified(stage.target)


@scenario
async def a_stopped_task_stays_stopped(stage: Stage) -> None:
    await stage.start("1", "stopped")
    await lazy_dump(stage.source)
    await stage.source.stands_still()
    stage.source.freezer.thaw()
    await stage.source.goes_on()
    assert stage.source.states() == ["S", "T"]
    daemon, _ = await move(stage)
    await daemon.finish(timeout_seconds=TIMEOUT_SECONDS)
    restore.resume(stage.target.layout, NAME)
    await verified(stage.target)
    assert stage.target.states() == ["S", "T"]


@scenario
async def a_cancelled_dump_leaves_the_container_and_its_connection_alive(stage: Stage) -> None:
    await stage.start("64")
    for delay in (0.0, 0.01, 0.02, 0.04):
        request = DumpRequest(NAME, stage.source.layout, Pages.LAZY, TIMEOUT_SECONDS)
        async with await Dumper.ready(request) as dumper:
            await dumper.freeze()
            dumping = asyncio.create_task(dumper.dump())
            await asyncio.sleep(delay)
            dumping.cancel()
            await asyncio.wait([dumping])
        stage.source.freezer.thaw()
        await stage.source.goes_on()


@scenario
async def a_page_server_that_breaks_off_can_be_followed_by_another(stage: Stage) -> None:
    await stage.start("64")
    daemon, server = await move(stage, breaks_after=10)
    server.join()
    restore.resume(stage.target.layout, NAME)
    await asyncio.sleep(A_WHILE_SECONDS)
    assert stage.target.numbers() == []
    error = await base.failure(lazy_dump(stage.target))  # memory that is not there yet
    assert error.reason == Reason.IN_MIGRATION, error
    PageServer(daemon.pages, server.memory)
    await daemon.finish(timeout_seconds=TIMEOUT_SECONDS)
    await verified(stage.target)


@scenario
async def a_discarded_copy_takes_its_daemon_along(stage: Stage) -> None:
    await stage.start("64")
    daemon, server = await move(stage, breaks_after=10)
    server.join()
    await restore.discard(stage.target.layout, NAME)
    assert not Path(f"/proc/{daemon.pid}/cmdline").read_bytes()  # a zombie: ours to collect
    await daemon.close()
    assert not Path(f"/proc/{daemon.pid}").exists()
    stage.source.freezer.thaw()
    await stage.source.goes_on()


@scenario
async def a_daemon_that_was_made_ready_can_be_closed_unused(stage: Stage) -> None:
    await stage.start("1")
    daemon = await LazyDaemon.ready(stage.target.layout, NAME)
    await daemon.close()
    assert not Path(f"/proc/{daemon.pid}").exists()
    daemon = await LazyDaemon.ready(stage.target.layout, NAME)
    error = await base.failure(daemon.start())  # without images
    assert error.reason == Reason.PAGE_SERVER_FAILED, error
    await daemon.close()


def main(name: str, image: str, cgroup: str) -> None:
    base.SCENARIOS = SCENARIOS
    base.main(name, image, cgroup)


if __name__ == "__main__":
    main(*sys.argv[1:])
