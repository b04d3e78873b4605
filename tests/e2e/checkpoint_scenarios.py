"""What test_checkpoint.py has a node do: one container, moved between two corners of that node.

Run on a node, by its Python: SCENARIO IMAGE CGROUP. Nothing but the project and the standard
library is imported here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transship.api.container import Container, SecurityContext
from transship.api.reasons import Reason
from transship.criu import restore
from transship.criu import worker as criu
from transship.criu.dump import Dump, Dumper, DumpRequest, Pages
from transship.criu.failures import CheckpointFailed
from transship.criu.gate.client import criu_freezer
from transship.criu.restore import Restorer
from transship.criu.selftest import run_selftest
from transship.linux import mounts
from transship.linux.freezer import Freezer, FreezerState, freezer_of
from transship.linux.processes import descendants
from transship.runtime import conmon, logs, orders
from transship.runtime.containers import Runtime, State
from transship.runtime.image_store import ImageStore
from transship.runtime.layout import Layout
from transship.runtime.orders import Order

NAME = "c"
ADDRESS = "127.0.0.1"
WAIT_SECONDS = 20.0
POLL_SECONDS = 0.005
A_WHILE_SECONDS = 0.15
TIMEOUT_SECONDS = 20.0

PROGRAM = """
import os, signal, socket, sys, time
memory = os.urandom(1 << 20) * 32
if "stopped" in sys.argv:
    child = os.fork()
    while child == 0:
        time.sleep(0.01)
    os.kill(child, signal.SIGSTOP)
if "mptcp" in sys.argv:
    multipath = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
server = socket.create_server(("127.0.0.1", 0))
near = socket.create_connection(server.getsockname())
far, _ = server.accept()
number = 0
while True:
    number += 1
    near.sendall(number.to_bytes(8, "big"))
    print(int.from_bytes(far.recv(8), "big"), flush=True)
    time.sleep(0.01)
"""


@dataclass(frozen=True)
class Corner:
    """One side of a move, as two agents would have them on two nodes."""

    runtime: Runtime
    image: str

    @property
    def layout(self) -> Layout:
        return self.runtime.layout

    @property
    def freezer(self) -> Freezer:
        return freezer_of(self.layout.cgroup(NAME))

    def order(self, *words: str) -> Order:
        path = self.layout.netns(NAME)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        subprocess.run(["unshare", f"--net={path}", "ip", "link", "set", "lo", "up"], check=True)
        container = Container(
            image=self.image,
            command=("/usr/bin/python3", "-c", PROGRAM, *words),
            tty="terminal" in words,
            security_context=SecurityContext(run_as_user=1000 if "not-root" in words else None),
        )
        return Order(id=NAME, name=NAME, container=container)

    def numbers(self) -> list[int]:
        return [int(line.text) for line in logs.read(self.layout.log(NAME))]

    def last(self) -> int:
        return self.numbers()[-1]

    def descriptors(self) -> list[str]:
        """Of what kinds the open files of its process 1 are."""
        [pid] = self.freezer.processes()
        found = Path(f"/proc/{pid}/fd").iterdir()
        return sorted(str(path.readlink()).partition(":")[0] for path in found)

    def states(self) -> list[str]:
        stats = [Path(f"/proc/{pid}/stat").read_text() for pid in self.freezer.processes()]
        return sorted(stat.rpartition(")")[2].split()[0] for stat in stats)

    async def goes_on(self) -> None:
        before = len(self.numbers())
        await until(lambda: len(self.numbers()) > before + 5)

    async def stands_still(self) -> None:
        before = self.numbers()
        await asyncio.sleep(A_WHILE_SECONDS)
        assert self.numbers() == before
        assert self.freezer.state() is FreezerState.FROZEN

    async def restorer(self, *, pages: Pages = Pages.IN_IMAGES) -> Restorer:
        console = orders.load(self.layout, NAME).console
        request = restore.RestoreRequest(NAME, self.layout, console, pages)
        return await Restorer.ready(request)

    async def restore(self) -> restore.Restored:
        restorer = await self.restorer()
        self.runtime.mount(NAME)
        restored = await restorer.restore(timeout_seconds=TIMEOUT_SECONDS)
        await restorer.settle()
        return restored

    def waiting(self) -> dict[str, int]:
        """The processes of a restore that is ready, by who they are."""
        supervisor = conmon.conmon_pid(self.layout, NAME)
        runc, gate, real = descendants(supervisor)
        return {"conmon": supervisor, "runc": runc, "gate": gate, "criu": real}

    async def nothing_is_left(self) -> None:
        """Of a restore but files; what ends by itself may take a moment."""
        await until(lambda: not conmon.alive(self.layout, NAME))
        await restore.discard(self.layout, NAME)
        criu = criu_freezer(self.freezer)
        assert self.freezer.processes() == criu.processes() == ()
        assert not criu.path.exists()
        assert not (self.layout.runc_root / NAME).exists()
        assert (self.layout.rootfs(NAME) / "usr").is_dir()
        assert self.numbers() == []

    async def renew_network(self) -> None:
        """A dead copy's connection lingers in the namespace."""
        mounts.unmount(self.layout.netns(NAME))
        self.order()

    async def clear(self) -> None:
        await restore.discard(self.layout, NAME)
        await self.runtime.remove(NAME)
        mounts.unmount(self.layout.netns(NAME))
        left = [
            point
            for root in (self.layout.state_dir, self.layout.runtime_dir)
            for point in mounts.mounts_below(root)
        ]
        assert not left, left
        shutil.rmtree(self.layout.runtime_dir, ignore_errors=True)


@dataclass(frozen=True)
class Stage:
    source: Corner
    target: Corner

    async def start(self, *words: str) -> None:
        """Run the container on the source, and prepare for it on the target."""
        order = self.source.order(*words)
        await self.source.runtime.prepare(order)
        await self.source.runtime.start(order.id)
        await self.target.runtime.prepare(self.target.order(*words))
        await until(lambda: len(self.source.numbers()) > 5)

    async def dumper(self, *, seconds: float = TIMEOUT_SECONDS) -> Dumper:
        shutil.rmtree(self.source.layout.images(NAME), ignore_errors=True)
        return await Dumper.ready(DumpRequest(NAME, self.source.layout, Pages.IN_IMAGES, seconds))

    async def dump(self) -> Dump:
        """Dump, and bring the images to the target."""
        async with await self.dumper() as dumper:
            await dumper.freeze()
            done = await dumper.dump()
        images = self.target.layout.images(NAME)
        shutil.rmtree(images, ignore_errors=True)
        shutil.copytree(done.images, images, ignore=shutil.ignore_patterns("work"))
        return done


Scenario = Callable[[Stage], Coroutine[Any, Any, None]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(play: Scenario) -> Scenario:
    SCENARIOS[play.__name__] = play
    return play


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(POLL_SECONDS)


async def failure(call: Awaitable[object]) -> CheckpointFailed:
    try:
        await call
    except CheckpointFailed as e:
        return e
    raise AssertionError("succeeded")


@scenario
async def a_container_is_dumped_restored_held_and_goes_on_where_it_was(stage: Stage) -> None:
    await stage.start()
    await stage.dump()
    await stage.source.stands_still()
    restored = await stage.target.restore()
    assert stage.target.descriptors() == stage.source.descriptors()
    assert stage.target.numbers() == []
    await asyncio.sleep(A_WHILE_SECONDS)
    assert stage.target.numbers() == []
    assert stage.target.freezer.state() is FreezerState.FROZEN
    await stage.source.stands_still()
    restore.resume(stage.target.layout, NAME)
    await until(stage.target.numbers)
    assert stage.target.numbers()[0] == stage.source.last() + 1
    await restore.discard(stage.source.layout, NAME)
    await stage.target.goes_on()
    assert stage.target.runtime.inspect(NAME).pid == restored.pid


@scenario
async def a_moved_container_moves_again_and_its_exit_code_is_known(stage: Stage) -> None:
    await stage.start()
    await stage.dump()
    await stage.target.restore()
    await restore.discard(stage.source.layout, NAME)
    mounts.unmount(stage.source.layout.netns(NAME))
    await stage.source.runtime.prepare(stage.source.order())
    back = Stage(stage.target, stage.source)
    await back.dump()  # of a copy that has never run
    await stage.source.restore()
    restore.resume(stage.source.layout, NAME)
    await stage.source.goes_on()
    seen = await stage.source.runtime.stop(NAME, grace_seconds=0)
    assert (seen.state, seen.exit_code) == (State.STOPPED, 128 + signal.SIGKILL)


@scenario
async def the_way_back_is_a_thaw(stage: Stage) -> None:
    await stage.start()
    for _ in range(3):
        await stage.dump()
        last = stage.source.last()
        await stage.source.stands_still()
        stage.source.freezer.thaw()
        await stage.source.goes_on()
        assert last + 1 in stage.source.numbers()


@scenario
async def a_stopped_task_stays_stopped_on_the_way_back_and_on_the_target(stage: Stage) -> None:
    await stage.start("stopped")
    assert len(stage.source.freezer.stopped_tasks()) == 1
    await stage.dump()
    await stage.source.stands_still()
    stage.source.freezer.thaw()
    await stage.source.goes_on()
    assert stage.source.states() == ["S", "T"]
    await stage.dump()
    await stage.target.restore()
    await stage.source.stands_still()
    restore.resume(stage.target.layout, NAME)
    await stage.target.goes_on()
    assert stage.target.states() == ["S", "T"]


@scenario
async def a_container_that_is_not_roots_is_moved(stage: Stage) -> None:
    await stage.start("not-root")
    await stage.dump()
    await stage.target.restore()
    restore.resume(stage.target.layout, NAME)
    await stage.target.goes_on()
    [pid] = stage.target.freezer.processes()
    assert Path(f"/proc/{pid}").stat().st_uid == 1000


@scenario
async def a_cancelled_dump_leaves_the_container_and_its_connections_alive(stage: Stage) -> None:
    for words in ((), ("stopped",)):
        await stage.start(*words)
        for delay in (0.0, 0.02, 0.06):
            async with await stage.dumper() as dumper:
                await dumper.freeze()
                dumping = asyncio.create_task(dumper.dump())
                await asyncio.sleep(delay)
                dumping.cancel()
                await asyncio.wait([dumping])
            stage.source.freezer.thaw()
            await stage.source.goes_on()
        await stage.source.clear()
        await stage.target.clear()


@scenario
async def a_dump_that_takes_too_long_leaves_the_container_alive(stage: Stage) -> None:
    await stage.start()
    async with await stage.dumper(seconds=0.2) as dumper:
        await dumper.freeze()
        os.kill(dumper._criu._process.pid, signal.SIGSTOP)
        error = await failure(dumper.dump())
    assert error.reason == Reason.DUMP_TIMED_OUT, error
    stage.source.freezer.thaw()
    await stage.source.goes_on()


@scenario
async def what_is_made_ready_can_be_closed_unused(stage: Stage) -> None:
    await stage.start("stopped")
    dumper = await stage.dumper()
    await dumper.close()
    await stage.source.goes_on()
    dumper = await stage.dumper()
    await dumper.freeze()
    await dumper.close()
    stage.source.freezer.thaw()
    await stage.source.goes_on()


@scenario
async def a_held_copy_does_not_run_when_its_conmon_is_killed(stage: Stage) -> None:
    await stage.start()
    await stage.dump()
    await stage.target.restore()
    os.kill(conmon.conmon_pid(stage.target.layout, NAME), signal.SIGKILL)
    await asyncio.sleep(A_WHILE_SECONDS)
    assert stage.target.freezer.state() is FreezerState.FROZEN
    await restore.discard(stage.target.layout, NAME)
    assert stage.target.freezer.processes() == ()
    assert stage.target.numbers() == []
    stage.source.freezer.thaw()
    await stage.source.goes_on()


@scenario
async def a_failed_restore_leaves_nothing_but_files(stage: Stage) -> None:
    await stage.start()
    await stage.dump()
    (stage.target.layout.images(NAME) / "core-1.img").unlink()
    error = await failure(stage.target.restore())
    assert error.reason == Reason.RESTORE_FAILED, error
    assert error.log_tail
    assert stage.target.freezer.processes() == ()
    assert not (stage.target.layout.runc_root / NAME).exists()
    assert (stage.target.layout.rootfs(NAME) / "usr").is_dir()
    stage.source.freezer.thaw()
    await stage.source.goes_on()


@scenario
async def a_cancelled_restore_leaves_nothing_but_files(stage: Stage) -> None:
    await stage.start()
    await stage.dump()
    stage.target.runtime.mount(NAME)
    for delay in (0.0, 0.05, 0.1, 0.2):
        getting_ready = asyncio.create_task(stage.target.restorer())
        await asyncio.sleep(delay)
        getting_ready.cancel()
        await asyncio.wait([getting_ready])
        if not getting_ready.cancelled():
            await getting_ready.result().close()  # it was quicker than the cancel
        await stage.target.nothing_is_left()
    for delay in (0.0, 0.01, 0.02, 0.04):
        restorer = await stage.target.restorer()
        restoring = asyncio.create_task(restorer.restore(timeout_seconds=TIMEOUT_SECONDS))
        await asyncio.sleep(delay)
        restoring.cancel()
        await asyncio.wait([restoring])
        await restorer.close()  # it may have been held already
        await stage.target.nothing_is_left()
        await stage.target.renew_network()
    stage.source.freezer.thaw()
    await stage.source.goes_on()


@scenario
async def a_restore_that_is_ready_can_be_closed_unused(stage: Stage) -> None:
    await stage.start()
    stage.target.runtime.mount(NAME)
    for _ in range(2):
        restorer = await stage.target.restorer()
        gone = list(stage.target.waiting().values())
        await restorer.close()
        await stage.target.nothing_is_left()
        await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in gone))  # noqa: B023


@scenario
async def whoever_dies_before_the_go_makes_the_restore_fail(stage: Stage) -> None:
    await stage.start()
    await stage.dump()
    stage.target.runtime.mount(NAME)
    for who in ("conmon", "runc", "gate", "criu"):
        restorer = await stage.target.restorer()
        os.kill(stage.target.waiting()[who], signal.SIGKILL)
        error = await failure(restorer.restore(timeout_seconds=TIMEOUT_SECONDS))
        assert error.reason == Reason.RESTORE_FAILED, error
        await stage.target.nothing_is_left()
    stage.source.freezer.thaw()
    await stage.source.goes_on()


@scenario
async def whoever_dies_in_a_restore_nothing_runs(stage: Stage) -> None:
    await stage.start()
    await stage.dump()
    stage.target.runtime.mount(NAME)
    for who in ("conmon", "runc", "gate", "criu"):
        for delay in (0.0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03):
            restorer = await stage.target.restorer()
            victim = stage.target.waiting()[who]
            restoring = asyncio.create_task(restorer.restore(timeout_seconds=TIMEOUT_SECONDS))
            await asyncio.sleep(delay)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            await asyncio.wait([restoring])
            if restoring.exception() is None:
                assert stage.target.freezer.state() is FreezerState.FROZEN
                await restorer.settle()
                assert stage.target.numbers() == []
                await restorer.close()
            await stage.target.nothing_is_left()
            await stage.target.renew_network()
    stage.source.freezer.thaw()
    await stage.source.goes_on()


@scenario
async def tasks_whose_gate_dies_at_the_last_stage_do_not_run(stage: Stage) -> None:
    await stage.start()
    await stage.dump()
    stage.target.runtime.mount(NAME)
    for who in ("gate", "criu", "runc"):
        restorer = await stage.target.restorer()
        waiting = stage.target.waiting()
        os.kill(waiting["runc"], signal.SIGSTOP)  # the gate waits for its answer
        restoring = asyncio.create_task(restorer.restore(timeout_seconds=TIMEOUT_SECONDS))
        await until(lambda: stage.target.freezer.state() is FreezerState.FROZEN)
        os.kill(waiting[who], signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):  # it may be the one that was killed
            os.kill(waiting["runc"], signal.SIGCONT)
        error = await failure(restoring)
        assert error.reason == Reason.RESTORE_FAILED, error
        await stage.target.nothing_is_left()
        await stage.target.renew_network()
    stage.source.freezer.thaw()
    await stage.source.goes_on()


AGENT = """
import asyncio, os, signal, sys
from pathlib import Path
from transship.criu import restore
from transship.runtime import orders
from transship.runtime.layout import Layout

async def die(name, state, run, cgroup, delay):
    layout = Layout(Path(state), Path(run), cgroup)
    console = orders.load(layout, name).console
    restorer = await restore.Restorer.ready(restore.RestoreRequest(name, layout, console))
    if delay:
        restoring = asyncio.create_task(restorer.restore(timeout_seconds=20))
        await asyncio.sleep(float(delay))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(die(*sys.argv[1:]))
"""


def agent_dies(layout: Layout, *, delay: str) -> None:
    """At once when a restore is ready, or so many seconds after its go."""
    words = (NAME, str(layout.state_dir), str(layout.runtime_dir), layout.cgroup_parent, delay)
    done = subprocess.run([sys.executable, "-c", AGENT, *words], check=False)
    assert done.returncode == -signal.SIGKILL


@scenario
async def an_agent_that_dies_before_its_go_leaves_nothing(stage: Stage) -> None:
    await stage.start()
    stage.target.runtime.mount(NAME)
    await asyncio.to_thread(agent_dies, stage.target.layout, delay="")
    await until(lambda: not conmon.alive(stage.target.layout, NAME))
    assert not (stage.target.layout.runc_root / NAME).exists()
    await stage.target.nothing_is_left()


@scenario
async def what_an_agent_leaves_that_dies_in_a_restore_is_discarded(stage: Stage) -> None:
    await stage.start()
    await stage.dump()
    stage.target.runtime.mount(NAME)
    for delay in ("0.001", "0.01", "0.02", "0.03", "0.05", "0.2"):
        await asyncio.to_thread(agent_dies, stage.target.layout, delay=delay)
        await restore.discard(stage.target.layout, NAME)
        await stage.target.nothing_is_left()
        await stage.target.renew_network()
    stage.source.freezer.thaw()
    await stage.source.goes_on()


@scenario
async def a_held_copy_whose_runc_is_killed_runs_on_without_it(stage: Stage) -> None:
    await stage.start()
    await stage.dump()
    restorer = await stage.target.restorer()
    runc = stage.target.waiting()["runc"]
    stage.target.runtime.mount(NAME)
    restored = await restorer.restore(timeout_seconds=TIMEOUT_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.kill(runc, signal.SIGKILL)
    await restorer.settle()
    seen = stage.target.runtime.inspect(NAME)
    assert (seen.state, seen.pid) == (State.RUNNING, restored.pid)
    assert stage.target.freezer.state() is FreezerState.FROZEN
    restore.resume(stage.target.layout, NAME)
    await until(lambda: stage.target.freezer.state() is FreezerState.THAWED)


@scenario
async def a_container_with_a_terminal_is_moved(stage: Stage) -> None:
    await stage.start("terminal")
    await stage.dump()
    await stage.target.restore()
    restore.resume(stage.target.layout, NAME)
    await until(stage.target.numbers)
    assert stage.target.numbers()[0] == stage.source.last() + 1
    await stage.target.goes_on()


@scenario
async def a_multipath_socket_is_named_as_the_cause(stage: Stage) -> None:
    await stage.start("mptcp")
    async with await stage.dumper() as dumper:
        await dumper.freeze()
        error = await failure(dumper.dump())
    assert error.reason == Reason.MPTCP_SOCKET, error
    assert "GODEBUG" in error.hint
    stage.source.freezer.thaw()
    await stage.source.goes_on()


ODD_ENVIRONMENT = {"ODD": "1", "NOTIFY_SOCKET": "/run/odd/notify", "LISTEN_FDS": "1"}
ODD_LIMITS = (resource.RLIMIT_MEMLOCK, resource.RLIMIT_STACK)
ODD_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTSTP, signal.SIGUSR1, 40)
PYTHON_IGNORES = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
IOPRIO_GET = {"x86_64": 252, "aarch64": 31}

# of a process that inherits nothing; /proc/PID/...
PLAIN = {
    "Umask": "0022", "SigBlk": "0" * 16, "THP_enabled": "1", "NoNewPrivs": "0", "Groups": "",
    "oom_score_adj": "0", "coredump_filter": "00000033", "personality": "00000000",
    "timerslack_ns": "50000", "nice": "0", "policy": "0", "ioprio": "0", "odd variables": "",
}  # fmt: skip


def be_odd() -> None:
    """What an agent's Pod, its service or somebody's shell may have made of its process."""
    os.environ.update(ODD_ENVIRONMENT)
    os.umask(0o077)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.setpriority(os.PRIO_PROCESS, 0, 5)
    Path("/proc/self/oom_score_adj").write_text("300")
    Path("/proc/self/coredump_filter").write_text("0x1")
    libc = ctypes.CDLL(None)
    libc.personality(0x0040000)  # ADDR_NO_RANDOMIZE
    libc.prctl(29, 1234567, 0, 0, 0)  # PR_SET_TIMERSLACK
    libc.prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE
    for limit in ODD_LIMITS:
        resource.setrlimit(limit, (1 << 20, resource.getrlimit(limit)[1]))
    for number in ODD_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    os.set_inheritable(os.open("/etc/passwd", os.O_RDONLY), True)


def inherited(pid: int) -> dict[str, str]:
    """What a process has that comes from its parent unless somebody sets it."""
    process = Path(f"/proc/{pid}")
    pairs = (line.partition(":") for line in (process / "status").read_text().splitlines())
    found = {name: value.strip() for name, _, value in pairs if name in PLAIN}
    files = ("oom_score_adj", "coredump_filter", "personality", "timerslack_ns")
    found |= {name: (process / name).read_text().strip() for name in files}
    found["nice"] = str(os.getpriority(os.PRIO_PROCESS, pid))
    found["policy"] = str(os.sched_getscheduler(pid))
    call = IOPRIO_GET[os.uname().machine]
    found["ioprio"] = str(ctypes.CDLL(None).syscall(call, 1, pid))
    variables = (process / "environ").read_bytes().decode().split("\0")
    odd = [each for each in variables if each.partition("=")[0] in ODD_ENVIRONMENT]
    return {**found, "odd variables": " ".join(odd)}


def require_plain(pid: int, *, cgroup: str, processors: set[int], ignored: int = 0) -> None:
    assert inherited(pid) == PLAIN
    groups = Path(f"/proc/{pid}/cgroup").read_text().split()
    assert all(line.endswith(cgroup) for line in groups), groups
    assert os.sched_getaffinity(pid) == processors
    status = Path(f"/proc/{pid}/status").read_text()
    [ignoring] = (line for line in status.splitlines() if line.startswith("SigIgn:"))
    assert int(ignoring.split()[1], 16) == ignored
    for limit in ODD_LIMITS:
        assert resource.prlimit(pid, limit) == resource.prlimit(1, limit)
    open_files = [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
    assert not [path for path in open_files if path.endswith("passwd")]


@scenario
async def nothing_of_the_agents_own_process_reaches_a_container(stage: Stage) -> None:
    processors = os.sched_getaffinity(0)
    here, there = (corner.layout.cgroup(NAME) for corner in (stage.source, stage.target))
    be_odd()
    await stage.start()
    first = stage.source.runtime.inspect(NAME).pid
    assert first is not None
    require_plain(first, cgroup=here, processors=processors, ignored=PYTHON_IGNORES)

    command = ["/bin/sh", "-c", "exec sleep 100"]
    asking = asyncio.create_task(
        stage.source.runtime.execute(NAME, command, timeout_seconds=TIMEOUT_SECONDS)
    )
    await until(lambda: len(sleeping(stage.source)) == 1)
    [asked] = sleeping(stage.source)
    require_plain(asked, cgroup=here, processors=processors)
    os.kill(asked, signal.SIGKILL)
    await asking

    await stage.dump()
    restored = await stage.target.restore()
    require_plain(restored.pid, cgroup=there, processors=processors, ignored=PYTHON_IGNORES)


def sleeping(corner: Corner) -> list[int]:
    found = corner.freezer.processes()
    return [pid for pid in found if Path(f"/proc/{pid}/comm").read_text() == "sleep\n"]


@scenario
async def a_node_proves_itself(stage: Stage) -> None:
    facts = await criu.probe()
    assert facts.version >= (4, 2, 0)
    test = await run_selftest(stage.source.layout.runtime_dir / "selftest")
    assert test.passed, test


async def perform(name: str, *, stage: Stage) -> None:
    await criu.warm()
    try:
        await SCENARIOS[name](stage)
    finally:
        await stage.source.clear()
        await stage.target.clear()


def corner(side: str, *, image: str, cgroup: str) -> Corner:
    """Both have one store of images, as if each had pulled the same."""
    layout = Layout(
        Path(f"/var/lib/transship/checkpoint-test-{side}"),
        Path(f"/run/checkpoint-test-{side}"),
        f"{cgroup}/checkpoint-test-{side}",
    )
    store = ImageStore(
        Path("/var/lib/transship/checkpoint-test-images"),
        insecure_registries={image.partition("/")[0]},
    )
    return Corner(Runtime(layout, images=store), image)


def main(name: str, image: str, cgroup: str) -> None:
    source, target = (corner(side, image=image, cgroup=cgroup) for side in ("source", "target"))
    asyncio.run(perform(name, stage=Stage(source, target)))


if __name__ == "__main__":
    main(*sys.argv[1:])
