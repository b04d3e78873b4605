"""What test_lazy_checkpoint.py runs on a node: moves in which CRIU's images have no memory.

Pages are read from the frozen source and sent to a page server on the target. It is run like
checkpoint_scenarios.py, which has to be importable.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from base64 import b64decode
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any

import checkpoint_scenarios as base
from checkpoint_scenarios import A_WHILE_SECONDS, NAME, TIMEOUT_SECONDS, Corner, Stage, until

from transship.api.reasons import Reason
from transship.common.certificates import agent_name, new_authority, write_credentials
from transship.common.tls import TlsFiles, client_context
from transship.criu import restore
from transship.criu.dump import Dump, Dumper, DumpRequest, Pages
from transship.criu.hidden_memory import preload
from transship.criu.images import pagemap as pagemaps
from transship.criu.rpc import split
from transship.linux import pidfds
from transship.linux.freezer import FreezerState
from transship.linux.pages import PageRange, batches
from transship.linux.processes import lookup
from transship.memory.page_server.client import PageServerClient, PageServerDead
from transship.memory.transfer.channel import PageServerEndpoint, connect_to_page_server
from transship.memory.transfer.sender import PageSender

PAGE = 4096
BATCH_PAGES = 64
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

FOLDER = Path(tempfile.mkdtemp())
Memory = dict[tuple[int, int], bytes]
"""Pages by pid in the container and address."""


@contextmanager
def timed(label: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{label}: {(time.monotonic() - began) * 1000:.1f} ms", file=sys.stderr)


async def lazy_dump(side: Corner) -> Dump:
    request = DumpRequest(NAME, side.layout, Pages.LAZY, TIMEOUT_SECONDS)
    async with await Dumper.ready(request) as dumper:
        with timed("freeze"):
            await dumper.freeze()
        with timed("dump"):
            return await dumper.dump()


def size(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def snapshot(dump: Dump, tasks: Iterable[int]) -> Memory:
    """Read the pages that the images leave out from the frozen tasks."""
    memory: Memory = {}
    outside = {process.inside: process.outside for process in lookup(tasks)}
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
async def a_lazy_dump_has_no_memory_and_its_rollback_is_a_thaw(stage: Stage) -> None:
    for mebibytes in (64, 256):
        await stage.start(str(mebibytes))
        for _ in range(3):
            shutil.rmtree(stage.source.layout.images(NAME), ignore_errors=True)
            dump = await lazy_dump(stage.source)
            await stage.source.stands_still()
            left = sum(one.pages for one in pagemaps.read(dump.images))
            assert left * PAGE > mebibytes << 20
            assert size(dump.images.glob("pages-*.img")) < 1 << 20
            assert [one.inside for one in lookup(stage.source.freezer.processes())] == [1]
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
    """Install the program that test_lazy_checkpoint.py has compiled, and have it executed."""
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
    dumps = []
    for library in (preload.LIBRARY, Path("/nowhere")):
        shutil.rmtree(stage.source.layout.images(NAME), ignore_errors=True)
        preload.LIBRARY = library
        dump = await lazy_dump(stage.source)
        await stage.source.stands_still()
        assert any(dump.images.glob("work/hidden/*.hidden")) == library.exists()
        pages = {
            (one.address, one.address + one.pages * PAGE) for one in pagemaps.read(dump.images)
        }
        dumps.append((mappings(dump), merged(pages), (dump.images / "pages-1.img").read_bytes()))
    hidden, plain = dumps
    assert hidden[0] == plain[0]
    assert hidden[1] == plain[1]
    assert len(plain[1]) > 8192
    assert hidden[2] == plain[2]
    stage.source.freezer.thaw()
    await stage.source.goes_on()


def mappings(dump: Dump) -> list[bytes]:
    """Return the sorted fields of the image of process 1's address space."""
    fields = [raw for _, _, raw in split((dump.images / "mm-1.img").read_bytes()[12:])]
    return sorted(fields)


def merged(pages: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """Merge adjacent ranges."""
    ranges: list[tuple[int, int]] = []
    for start, end in sorted(pages):
        if ranges and ranges[-1][1] == start:
            ranges[-1] = ranges[-1][0], end
        else:
            ranges.append((start, end))
    return ranges


def tls_files() -> dict[str, TlsFiles]:
    authority = new_authority("test")
    (FOLDER / "ca").write_bytes(authority.credentials.certificate)
    files_by_node = {}
    for node in ("source", "target"):
        made = authority.issue_agent(node, addresses=[base.ADDRESS])
        files = write_credentials(made, FOLDER, node)
        files_by_node[node] = TlsFiles(FOLDER / "ca", files.certificate, files.key)
    return files_by_node


class Move:
    """A move up to the held copy on the target. The test sends its memory afterwards, in parts."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._tls = tls_files()
        self.memory: Memory = {}
        self.sent = 0

    async def begin(self, *, only: int | None = None) -> None:
        """Restore a copy, sending the first `only` pages (by default all), until it is held."""
        layout = self._stage.target.layout
        shutil.rmtree(layout.images(NAME), ignore_errors=True)
        with timed("starting the page server"):
            self.page_server, self._port = await PageServerClient.start(
                layout,
                NAME,
                address=base.ADDRESS,
                files=self._tls["target"],
                peer=agent_name("source"),
            )
        shutil.rmtree(self._stage.source.layout.images(NAME), ignore_errors=True)
        dump = await lazy_dump(self._stage.source)
        copy_images(dump, self._stage.target)
        self.memory = snapshot(dump, self._stage.source.freezer.processes())
        # the highest addresses first, those of libraries: CRIU itself needs some of these pages
        ordered = sorted(self.memory, key=itemgetter(1), reverse=True)
        self._ranges = [PageRange(process, address, 1) for process, address in ordered]
        self.connect()
        self.sender.final()
        restoring = asyncio.create_task(lazy_restore(self._stage.target))
        await asyncio.to_thread(self.send, only)
        await restoring
        assert self._stage.target.freezer.state() is FreezerState.FROZEN
        await self.page_server.wait_final(timeout_seconds=TIMEOUT_SECONDS)

    def connect(self) -> None:
        files = self._tls["source"]
        context = client_context(
            authority=files.authority, certificate=files.certificate, key=files.key
        )
        pages = PageServerEndpoint(base.ADDRESS, self._port, node="target", context=context)
        self.sender = PageSender(connect_to_page_server(pages))

    def send(self, pages: int | None = None) -> None:
        """Send the next so many pages, by default the rest."""
        end = len(self._ranges) if pages is None else self.sent + pages
        for batch in batches(self._ranges[self.sent : end], pages=BATCH_PAGES):
            data = b"".join(self.memory[one.pid, one.address] for one in batch)
            self.sender.send(batch, bytearray(data))
        self.sent = end
        self.sender.flush()

    async def finish(self) -> None:
        """Send the rest, and wait until the processes have all of their pages."""
        await asyncio.to_thread(self.send)
        self.sender.end()
        await self.page_server.wait_done()
        await self.page_server.close()

    @property
    def guard(self) -> int:
        work = self._stage.target.layout.images(NAME) / "work"
        return int((work / "page-server.pid").read_text().split()[0])

    @property
    def worker(self) -> int:
        children = Path(f"/proc/{self.guard}/task/{self.guard}/children").read_text().split()
        return int(children[0])

    async def kill(self, pid: int) -> None:
        handle = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        await pidfds.ended(handle, timeout_seconds=TIMEOUT_SECONDS)
        os.close(handle)


async def lazy_restore(side: Corner) -> restore.Restored:
    restorer = await side.restorer(pages=Pages.LAZY)
    side.runtime.mount(NAME)
    with timed("restore"):
        restored = await restorer.restore(timeout_seconds=TIMEOUT_SECONDS)
    await restorer.settle()
    return restored


def copy_images(dump: Dump, side: Corner) -> None:
    for path in dump.images.iterdir():
        if path.is_file():
            shutil.copy(path, side.layout.images(NAME))


async def moved(stage: Stage) -> Move:
    move = Move(stage)
    await move.begin()
    return move


async def verified(side: Corner, *, processes: int = 1) -> None:
    (side.layout.rootfs(NAME) / "verify").touch()
    await until(lambda: sum(number < 0 for number in side.numbers()) == processes)
    assert BROKEN not in side.numbers()
    await side.goes_on()


@scenario
async def the_memory_of_a_held_copy_is_whole_and_the_connection_goes_on(stage: Stage) -> None:
    for mebibytes in (64, 256):
        await stage.start(str(mebibytes))
        move = await moved(stage)
        with timed("rest of the memory"):
            await move.finish()
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
async def memory_that_follows_running_processes_is_whole(stage: Stage) -> None:
    await stage.start("64", "child", "not-root")
    move = Move(stage)
    await move.begin(only=2000)
    (stage.target.layout.rootfs(NAME) / "verify").touch()
    restore.resume(stage.target.layout, NAME)
    with timed("rest of the memory"):
        await move.finish()
    with timed("first output"):
        await until(stage.target.numbers)
    await verified(stage.target, processes=2)


@scenario
async def memory_is_whole_for_children_and_mappings_that_come_and_go(stage: Stage) -> None:
    await stage.start("64", "busy")
    move = await moved(stage)
    (stage.target.layout.rootfs(NAME) / "verify").touch()
    restore.resume(stage.target.layout, NAME)
    await move.finish()
    await verified(stage.target)


@scenario
async def workers_killed_among_children_and_changing_mappings_lose_no_page(stage: Stage) -> None:
    await stage.start("64", "busy")
    move = Move(stage)
    await move.begin(only=1000)
    (stage.target.layout.rootfs(NAME) / "verify").touch()
    restore.resume(stage.target.layout, NAME)
    while move.sent + 1500 < len(move.memory):
        await move.kill(move.worker)
        assert (await move.page_server.state()).missing == len(move.memory) - move.sent
        move.connect()
        await asyncio.to_thread(move.send, 1500)
    await move.finish()
    await verified(stage.target)


@scenario
async def the_guard_can_be_killed(stage: Stage) -> None:
    await stage.start("64", "busy")
    move = Move(stage)
    await move.begin(only=1000)
    (stage.target.layout.rootfs(NAME) / "verify").touch()
    restore.resume(stage.target.layout, NAME)
    await move.kill(move.guard)
    await move.finish()
    await verified(stage.target)


@scenario
async def without_guard_and_worker_memory_is_lost(stage: Stage) -> None:
    await stage.start("64")
    move = Move(stage)
    await move.begin(only=1000)
    worker = move.worker
    await move.kill(move.guard)
    await move.kill(worker)
    error = (await asyncio.gather(move.page_server.wait_done(), return_exceptions=True))[0]
    assert isinstance(error, PageServerDead), error
    assert error.reason == Reason.PAGES_LOST, error


@scenario
async def a_stopped_task_stays_stopped(stage: Stage) -> None:
    await stage.start("1", "stopped")
    await lazy_dump(stage.source)
    await stage.source.stands_still()
    stage.source.freezer.thaw()
    await stage.source.goes_on()
    assert stage.source.states() == ["S", "T"]
    move = await moved(stage)
    await move.finish()
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
async def a_copy_without_all_of_its_pages_waits_and_cannot_be_dumped(stage: Stage) -> None:
    await stage.start("64")
    move = Move(stage)
    await move.begin(only=1000)
    restore.resume(stage.target.layout, NAME)
    await asyncio.sleep(A_WHILE_SECONDS)
    assert stage.target.numbers() == []
    error = await base.failure(lazy_dump(stage.target))  # its memory is incomplete
    assert error.reason == Reason.IN_MIGRATION, error
    move.sender.abort()
    move.connect()
    await move.finish()
    await verified(stage.target)


@scenario
async def a_discarded_copy_ends_its_page_server(stage: Stage) -> None:
    await stage.start("64")
    move = Move(stage)
    await move.begin(only=1000)
    guard = move.guard
    await restore.discard(stage.target.layout, NAME)
    await move.page_server.wait_done()
    await move.page_server.close()
    assert not Path(f"/proc/{guard}").exists()
    stage.source.freezer.thaw()
    await stage.source.goes_on()


def main(name: str, image: str, cgroup: str) -> None:
    base.SCENARIOS = SCENARIOS
    base.main(name, image, cgroup)


if __name__ == "__main__":
    main(*sys.argv[1:])
