"""The page server as the agent uses it: two processes, TLS, sockets by path, and kills of both."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fakes.lazy_process import FEATURES, PAGE, PID, LazyProcess, pagemap_image
from transship.common.certificates import agent_name, new_authority, write_credentials
from transship.common.errors import DeadlineExceeded, TransshipError
from transship.common.tls import TlsFiles, client_context
from transship.linux import pidfds
from transship.linux.pages import PageRange
from transship.linux.processes import Process
from transship.memory.page_server import client as page_servers
from transship.memory.page_server import messages
from transship.memory.page_server.client import PageServerClient, PageServerDead, PageServerSilent
from transship.memory.page_server.lazy_pages_socket import SOCKET_NAME
from transship.memory.postcopy.push import MemoryPush
from transship.memory.transfer.channel import PageServerEndpoint, connect_to_page_server
from transship.memory.transfer.sender import PageSender
from transship.runtime.layout import Layout

PAGES = 3000
OFFSET = 1000
ATTEMPTS = 20
ADDRESS = "127.0.0.1"


class Node:
    """A page server, and a process that gets all of its pages from it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.layout = Layout(runtime_dir=folder / "run")
        self.work = self.layout.images("c") / "work"
        authority = new_authority("test")
        (folder / "ca").write_bytes(authority.credentials.certificate)
        self._senders: list[PageSender] = []
        self._tls = {}
        for name in ("source", "target"):
            made = authority.issue_agent(name, addresses=[ADDRESS])
            files = write_credentials(made, folder, name)
            self._tls[name] = TlsFiles(folder / "ca", files.certificate, files.key)

    async def start(self) -> None:
        self.page_server, self.port = await PageServerClient.start(
            self.layout,
            "c",
            address=ADDRESS,
            files=self._tls["target"],
            peer=agent_name("source"),
        )
        self.guard = int((self.work / "page-server.pid").read_text().split()[0])
        self.process = LazyProcess(self.work / SOCKET_NAME, pages=PAGES, features=FEATURES)
        image = pagemap_image((self.process.address, PAGES))
        (self.layout.images("c") / f"pagemap-{PID}.img").write_bytes(image)
        await self.page_server.state()

    def sender(self) -> PageSender:
        files = self._tls["source"]
        context = client_context(
            authority=files.authority, certificate=files.certificate, key=files.key
        )
        channel = connect_to_page_server(
            PageServerEndpoint(ADDRESS, self.port, node="target", context=context)
        )
        self._senders.append(PageSender(channel))
        return self._senders[-1]

    def send(self, sender: PageSender, first: int, end: int) -> None:
        for start in range(first, end, 500):
            stop = min(start + 500, end)
            numbers = (number + OFFSET for number in range(start, stop))
            data = b"".join(number.to_bytes(8, "little") + b"x" * (PAGE - 8) for number in numbers)
            pages = PageRange(PID, self.process.address + start * PAGE, stop - start)
            sender.send([pages], bytearray(data))
        sender.flush()

    @property
    def worker(self) -> int:
        children = Path(f"/proc/{self.guard}/task/{self.guard}/children").read_text().split()
        return int(children[0])

    async def killed(self, pid: int) -> None:
        handle = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        await pidfds.ended(handle, timeout_seconds=20)
        os.close(handle)

    async def close(self) -> None:
        for sender in self._senders:
            sender.close()
        await self.page_server.close()
        self.process.close()


@pytest.fixture
def same_cgroup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start page servers without a cgroup of their own."""
    monkeypatch.setattr(page_servers, "leave_agent", lambda _layout, *, pid: None)


@pytest.fixture
async def node(tmp_path: Path, same_cgroup: None) -> AsyncIterator[Node]:
    made = Node(tmp_path)
    await made.start()
    yield made
    await made.close()


def numbered(first: int, end: int) -> list[int]:
    return [number + OFFSET for number in range(first, end)]


async def test_pages_come_from_the_source_to_the_process(node: Node) -> None:
    sender = node.sender()
    node.send(sender, 0, PAGES)
    sender.final()
    sender.end()
    node.process.ask("finish()")
    await node.page_server.wait_all_stored(timeout_seconds=20)
    await node.page_server.wait_done()
    assert node.process.ask(f"words(0, {PAGES})") == numbered(0, PAGES)
    assert PageServerClient.find(node.layout, "c") is None
    await node.page_server.wait_all_stored(timeout_seconds=20)  # asked again, of one that is done


async def test_the_answer_to_the_end_comes_after_the_process_has_all_pages(node: Node) -> None:
    sender = node.sender()
    node.send(sender, 0, PAGES)
    sender.final()
    asking = asyncio.create_task(node.page_server.wait_all_stored(timeout_seconds=20))
    node.process.ask("finish()")
    assert node.process.ask(f"words(0, {PAGES})") == numbered(0, PAGES)
    assert not asking.done()
    sender.end()
    await asking
    await node.page_server.wait_done()


async def test_missing_pages_are_reported_when_the_source_ends_its_stream(node: Node) -> None:
    sender = node.sender()
    node.send(sender, 0, PAGES - 3)
    sender.final()
    sender.end()
    node.process.ask("finish()")
    with pytest.raises(TransshipError, match="3 have not arrived: the source has ended its"):
        await node.page_server.wait_all_stored(timeout_seconds=20)


async def test_a_broken_stream_of_the_source_is_reported(node: Node) -> None:
    sender = node.sender()
    node.send(sender, 0, 100)
    asking = asyncio.create_task(node.page_server.wait_all_stored(timeout_seconds=20))
    sender.abort()
    with pytest.raises(TransshipError, match="2900 have not arrived"):
        await asking


async def test_a_worker_killed_before_the_pages_are_final_is_not_replaced(node: Node) -> None:
    sender = node.sender()
    node.send(sender, 0, PAGES)
    await node.killed(node.worker)
    with pytest.raises(PageServerDead):
        await node.page_server.wait_all_stored(timeout_seconds=20)


async def test_a_worker_killed_while_pages_are_missing_is_replaced(node: Node) -> None:
    sender = node.sender()
    node.send(sender, 0, 2000)
    sender.final()
    node.process.ask("finish()")
    await node.page_server.wait_final(timeout_seconds=20)
    assert node.process.ask("words(0, 10)") == numbered(0, 10)
    assert node.process.ask("drop(100, 1000)") == 0
    node.process.send("words(2500, 2510)")
    for _ in range(3):
        await node.killed(node.worker)
        assert (await node.page_server.state()).missing == 1000
    assert node.process.is_waiting
    sender = node.sender()
    node.send(sender, 1900, PAGES)
    sender.end()
    assert node.process.answer() == numbered(2500, 2510)
    await node.page_server.wait_done()
    expected = [*numbered(0, 100), *[0] * 900, *numbered(1000, PAGES)]
    assert node.process.ask(f"words(0, {PAGES})") == expected


@pytest.mark.usefixtures("same_cgroup")
async def test_a_worker_killed_at_any_moment_of_filling_loses_no_page(tmp_path: Path) -> None:
    """Filling takes some milliseconds: it is repeated until a kill was in time."""
    for attempt in range(ATTEMPTS):
        node = Node(tmp_path / str(attempt))
        await node.start()
        kills = await _killed_while_giving(node)
        await node.close()
        if kills:
            return
    raise AssertionError(f"in {ATTEMPTS} attempts all was given before a server could be killed")


async def _killed_while_giving(node: Node) -> int:
    sender = node.sender()
    node.send(sender, 0, PAGES)
    sender.final()
    sender.end()
    node.process.ask("finish()")
    await node.page_server.wait_final(timeout_seconds=20)
    node.process.send(f"[drop(n, n + 1) for n in range(0, {PAGES}, 50)]")
    kills = 0
    while PageServerClient.find(node.layout, "c") is not None and kills < 5:
        try:
            await node.killed(node.worker)
        except (IndexError, ProcessLookupError, FileNotFoundError):
            await asyncio.sleep(0)
        else:
            kills += 1
    assert node.process.answer() == [0] * len(range(0, PAGES, 50))
    await node.page_server.wait_done()
    expected = [0 if number % 50 == 0 else number + OFFSET for number in range(PAGES)]
    assert node.process.ask(f"words(0, {PAGES})") == expected
    return kills


async def test_without_the_guard_the_worker_continues_and_reports_that(node: Node) -> None:
    sender = node.sender()
    node.send(sender, 0, 2000)
    sender.final()
    node.process.ask("finish()")
    await node.killed(node.guard)
    while (await node.page_server.state()).guarded:  # noqa: ASYNC110 - the server notes it by itself
        await asyncio.sleep(0)
    node.send(sender, 2000, PAGES)
    sender.end()
    await node.page_server.wait_done()
    assert node.process.ask(f"words(0, {PAGES})") == numbered(0, PAGES)


async def test_without_guard_and_worker_pages_are_lost(node: Node) -> None:
    sender = node.sender()
    node.send(sender, 0, 2000)
    sender.final()
    node.process.ask("finish()")
    server = node.worker
    await node.killed(node.guard)
    await node.killed(server)
    with pytest.raises(PageServerDead):
        await node.page_server.wait_done()


async def ask(node: Node, question: bytes) -> bytes:
    """Return the answer of the control socket."""
    reader, writer = await asyncio.open_unix_connection("page-server.socket")
    writer.write(question)
    answer = await reader.readline()
    writer.close()
    return answer


async def test_an_invalid_question_is_answered_and_changes_nothing(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(node.work)
    server = node.worker
    for question in (b"WhoAreYou\n", b"\xff\xfe\n", b"x" * 5000):
        assert messages.decode(await ask(node, question)).error
    assert not (await node.page_server.state()).error
    assert node.worker == server


async def test_an_invalid_message_of_the_source_is_reported(node: Node) -> None:
    sender = node.sender()
    node.send(sender, 0, 100)
    asking = asyncio.create_task(node.page_server.wait_all_stored(timeout_seconds=20))
    sender._channel.sendall(os.urandom(4096))
    with pytest.raises(TransshipError, match="have not arrived"):
        await asking


async def test_a_worker_that_hangs_does_not_count_as_dead(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_servers, "STATE_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(page_servers, "CHECK_SECONDS", 0.0)
    server = node.worker
    os.kill(server, signal.SIGSTOP)
    with pytest.raises(PageServerSilent):
        await node.page_server.wait_done()
    with pytest.raises(PageServerSilent):
        await node.page_server.state()
    os.kill(server, signal.SIGCONT)
    monkeypatch.setattr(page_servers, "STATE_TIMEOUT_SECONDS", 20)
    assert not (await node.page_server.state()).error


async def test_composing_images_has_a_deadline(node: Node) -> None:
    server = node.worker
    os.kill(server, signal.SIGSTOP)
    with pytest.raises(DeadlineExceeded):
        await node.page_server.compose(timeout_seconds=0.05)
    os.kill(server, signal.SIGCONT)
    await node.page_server.compose(timeout_seconds=20)  # there are none


async def test_another_agent_finds_the_page_server(node: Node) -> None:
    sender = node.sender()
    node.send(sender, 0, 2000)
    sender.final()
    found = PageServerClient.find(node.layout, "c")
    assert found is not None
    ending = asyncio.create_task(found.wait_done())
    assert (await found.state()).missing == 1000
    node.process.ask("finish()")
    node.send(sender, 2000, PAGES)
    sender.end()
    await ending


async def test_closing_ends_guard_and_worker(node: Node) -> None:
    handles = [os.pidfd_open(pid) for pid in (node.guard, node.worker)]
    await node.page_server.close()
    for handle in handles:
        assert await pidfds.ended(handle, timeout_seconds=20)
        os.close(handle)


async def test_in_a_post_copy_pages_are_requested_pushed_and_requested_again(node: Node) -> None:
    first = node.sender()
    node.send(first, 0, 100)
    first.final()
    first.flush()
    node.process.ask("finish()")
    await node.page_server.wait_final(timeout_seconds=20)
    source = Source(node.process.address)
    push = MemoryPush(lambda: [Process(PID, source.pid)])
    loop = asyncio.get_running_loop()
    answering = loop.run_in_executor(None, push.serve_page_requests, node.sender())
    assert await asyncio.to_thread(node.process.ask, "words(2000, 2010)") == numbered(2000, 2010)
    assert (await node.page_server.state()).missing > 1000
    await node.killed(node.worker)
    with pytest.raises(TransshipError):
        await answering
    again = loop.run_in_executor(None, push.serve_page_requests, node.sender())
    await asyncio.to_thread(push.push, node.sender())
    await node.page_server.wait_done()
    await asyncio.wait_for(again, 20)  # it was told that nothing is wanted any more
    assert node.process.ask(f"words(0, {PAGES})") == numbered(0, PAGES)
    source.close()


class Source:
    """A process with all pages at the same address."""

    PROGRAM = """
import ctypes, mmap, sys
address, pages = int(sys.argv[1]), int(sys.argv[2])
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap(ctypes.c_void_p(address), ctypes.c_size_t(pages * 4096), 3,
          mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x100000, -1, ctypes.c_long(0))
for number in range(pages):
    ctypes.memmove(address + number * 4096, (number + 1000).to_bytes(8, "little"), 8)
print(flush=True)
sys.stdin.read()
"""

    def __init__(self, address: int) -> None:
        words = [sys.executable, "-c", self.PROGRAM, str(address), str(PAGES)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._process.stdout.readline()
        self.pid = self._process.pid

    def close(self) -> None:
        self._process.communicate()
