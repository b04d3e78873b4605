"""What test_runtime.py has a node do: each drives the runtime package from where an agent would.

Run on a node, by its Python: SCENARIO IMAGE CGROUP. Nothing but the project and the standard
library is imported here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transship.api.container import (
    Capabilities,
    ConfigMapVolume,
    Container,
    EmptyDir,
    EmptyDirMedium,
    EnvVar,
    HostPath,
    ResourceList,
    Resources,
    SecretVolume,
    SecurityContext,
    Volume,
    VolumeMount,
)
from transship.common.errors import TransshipError
from transship.linux import cgroups, mounts
from transship.runtime import logs
from transship.runtime.containers import TREES, Observed, Runtime, State
from transship.runtime.image_store import ImageStore
from transship.runtime.layout import Layout
from transship.runtime.orders import Order
from transship.runtime.volumes import OrderedVolume, VolumeFile

WAIT_SECONDS = 20.0
POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Stage:
    """A corner of the node of the scenario's own, and what scenarios do there again and again."""

    layout: Layout
    image: str
    runtime: Runtime

    @property
    def registry(self) -> str:
        return self.image.partition("/")[0]

    def order(
        self, name: str, script: str, *, volumes: tuple[OrderedVolume, ...] = (), **fields: Any
    ) -> Order:
        self._make_network(name)
        container = Container(image=self.image, command=("/bin/sh", "-c", script), **fields)
        return Order(id=name, name=name, volumes=volumes, container=container)

    def _make_network(self, name: str) -> None:
        path = self.layout.netns(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        subprocess.run(["unshare", f"--net={path}", "true"], check=True)

    async def start(self, order: Order) -> None:
        await self.runtime.prepare(order)
        await self.runtime.start(order.id)

    def output(self, name: str) -> list[str]:
        return [line.text for line in logs.read(self.layout.log(name))]

    async def ended(self, name: str) -> Observed:
        await until(lambda: self.runtime.inspect(name).exit_code is not None)
        return self.runtime.inspect(name)

    def freeze(self, name: str) -> None:
        hierarchies = cgroups.detect()
        path = hierarchies.path(self.layout.cgroup(name), controller="freezer")
        if hierarchies.unified:
            (path / "cgroup.freeze").write_text("1")
            return
        (path / "freezer.state").write_text("FROZEN")
        while "FROZEN" not in (path / "freezer.state").read_text():
            time.sleep(POLL_SECONDS)

    async def clear(self) -> None:
        networks = self.layout.netns("any").parent
        for path in [*self.layout.all_containers.glob("*"), *networks.glob("*")]:
            await self.runtime.remove(path.name)
        for path in networks.glob("*"):
            mounts.unmount(path)
        left = [
            point
            for root in (self.layout.state_dir, self.layout.runtime_dir)
            for point in mounts.mounts_below(root)
        ]
        assert not left, left
        shutil.rmtree(self.layout.runtime_dir, ignore_errors=True)


Scenario = Callable[[Stage], Coroutine[Any, Any, None]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(play: Scenario) -> Scenario:
    SCENARIOS[play.__name__] = play
    return play


def new_runtime(layout: Layout, *, registry: str) -> Runtime:
    return Runtime(layout, images=ImageStore(layout.image_store, insecure_registries={registry}))


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(POLL_SECONDS)


async def refused(call: Awaitable[object]) -> TransshipError:
    try:
        await call
    except TransshipError as e:
        return e
    raise AssertionError("was accepted")


def start_and_die(node: Stage, order: Order) -> None:
    """What is left of a container whose agent is killed right after the start."""
    child = os.fork()
    if child == 0:
        asyncio.events._set_running_loop(None)
        runtime = new_runtime(node.layout, registry=node.registry)
        asyncio.run(replace(node, runtime=runtime).start(order))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def copy_trees(layout: Layout, *, source: str, target: str) -> None:
    """What a migration does with files, within one node."""
    foreign = ("origin", "uuid", "nlink", "impure")
    filters = [f"--filter=-x trusted.overlay.{name}" for name in foreign]
    trees = [layout.container(source) / name for name in TREES]
    copy: list[str | Path] = ["rsync", "-aHAX", "--numeric-ids", "-D", "--delete"]
    subprocess.run([*copy, *filters, *trees, layout.container(target)], check=True)


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def tree(root: Path) -> dict[str, list[str]]:
    return {
        directory.removeprefix(str(root)): sorted(names) for directory, _, names in os.walk(root)
    }


@scenario
async def output_and_exit_code_arrive(node: Stage) -> None:
    await node.start(node.order("a", "echo out; echo err >&2; exit 3"))
    async for exit_ in node.runtime.watch_exits():
        assert (exit_.container_id, exit_.code) == ("a", 3)
        break
    seen = node.runtime.inspect("a")
    assert seen.state is State.STOPPED
    assert seen.exit_code == 3
    assert seen.exited_at is not None
    assert not seen.oom_killed
    streams = {(line.stream, line.text) for line in logs.read(node.layout.log("a"))}
    assert streams == {("stdout", "out"), ("stderr", "err")}


@scenario
async def a_container_outlives_its_starter(node: Stage) -> None:
    script = "while true; do echo tick; sleep 0.05; done"
    start_and_die(node, node.order("a", script))
    before = len(node.output("a"))
    await until(lambda: len(node.output("a")) > before + 3)
    assert node.runtime.inspect("a").state is State.RUNNING
    seen = await node.runtime.stop("a", grace_seconds=0)
    assert seen.exit_code == 137


@scenario
async def conmon_is_outside_the_cgroups_of_its_starter(node: Stage) -> None:
    await node.start(node.order("a", "sleep 100"))
    pid = int(node.layout.conmon_pidfile("a").read_text())
    lines = Path(f"/proc/{pid}/cgroup").read_text().split()
    assert all(line.endswith("/runtime-test/conmon") for line in lines), lines
    assert os.getsid(pid) == pid


@scenario
async def stop_asks_first(node: Stage) -> None:
    script = "trap 'exit 7' TERM; echo ready; while true; do sleep 0.02; done"
    await node.start(node.order("a", script))
    await until(lambda: node.output("a"))
    begin = time.monotonic()
    seen = await node.runtime.stop("a", grace_seconds=10)
    assert seen.exit_code == 7
    assert time.monotonic() - begin < 2


@scenario
async def stop_uses_the_signal_of_the_container(node: Stage) -> None:
    script = "trap 'exit 8' USR1; echo ready; while true; do sleep 0.02; done"
    await node.start(node.order("a", script, stop_signal="SIGUSR1"))
    await until(lambda: node.output("a"))
    assert (await node.runtime.stop("a", grace_seconds=10)).exit_code == 8


@scenario
async def stop_kills_what_does_not_listen(node: Stage) -> None:
    await node.start(node.order("a", "trap '' TERM; echo ready; sleep 100; sleep 100"))
    await until(lambda: node.output("a"))
    begin = time.monotonic()
    seen = await node.runtime.stop("a", grace_seconds=0.3)
    assert seen.exit_code == 137
    assert 0.3 <= time.monotonic() - begin < 2
    assert not cgroups.members(node.runtime.hierarchies, node.layout.cgroup("a"))


@scenario
async def memory_beyond_the_limit_is_told(node: Stage) -> None:
    limits = Resources(limits=ResourceList(memory="24Mi"))
    script = "exec python3 -c 'x = bytearray(200 << 20)'"
    await node.start(node.order("a", script, resources=limits))
    seen = await node.ended("a")
    assert seen.exit_code == 137
    assert seen.oom_killed


@scenario
async def a_restart_keeps_files_until_they_are_discarded(node: Stage) -> None:
    volume = OrderedVolume(Volume(name="volume", empty_dir=EmptyDir()))
    mount = VolumeMount(name="volume", mount_path="/data")
    script = "echo x >> /grown; echo x >> /data/grown; cat /grown | wc -c; cat /data/grown | wc -c"
    wanted = node.order("a", script, volumes=(volume,), volume_mounts=(mount,))
    await node.start(wanted)
    await node.ended("a")
    await node.runtime.start("a")
    await node.ended("a")
    assert node.output("a") == ["2", "2", "4", "4"]


@scenario
async def starting_what_runs_changes_nothing(node: Stage) -> None:
    await node.start(node.order("a", "sleep 100"))
    first = node.runtime.inspect("a")
    await node.runtime.start("a")
    assert node.runtime.inspect("a") == first


@scenario
async def a_frozen_copy_dies_without_running_on(node: Stage) -> None:
    script = "while true; do echo x; done & while true; do echo x; done & wait"
    await node.start(node.order("a", f"({script}) >> /grown"))
    grown = node.layout.upper("a") / "grown"
    await until(lambda: grown.exists() and grown.stat().st_size > 10000)
    node.freeze("a")
    size = grown.stat().st_size
    await node.runtime.destroy("a")
    assert grown.stat().st_size == size
    assert node.runtime.inspect("a").state is State.ABSENT


@scenario
async def volumes_are_what_they_are_in_a_pod(node: Stage) -> None:
    host = Path("/srv/runtime-test")
    host.mkdir(exist_ok=True)
    (host / "file").write_text("host")
    files = (VolumeFile("key", b"value"), VolumeFile("sub/key", b"other"))
    memory = EmptyDir(medium=EmptyDirMedium.MEMORY, size_limit="1Mi")
    volumes = (
        OrderedVolume(Volume(name="config", config_map=ConfigMapVolume(name="c")), files),
        OrderedVolume(Volume(name="secret", secret=SecretVolume(secret_name="s")), files),
        OrderedVolume(Volume(name="memory", empty_dir=memory)),
        OrderedVolume(Volume(name="host", host_path=HostPath(path=str(host)))),
    )
    mounts_ = (
        VolumeMount(name="config", mount_path="/config"),
        VolumeMount(name="secret", mount_path="/one-secret", sub_path="sub/key"),
        VolumeMount(name="memory", mount_path="/memory"),
        VolumeMount(name="host", mount_path="/host", read_only=True),
    )
    script = """
        echo $(cat /config/key) $(cat /config/sub/key) $(cat /one-secret)
        touch /config/new 2>/dev/null || echo config is read-only
        touch /host/new 2>/dev/null || echo host is read-only
        echo $(cat /host/file)
        dd if=/dev/zero of=/memory/big bs=64k count=64 2>/dev/null || echo memory is full
        touch /dev/shm/works && echo shm works
    """
    await node.start(node.order("a", script, volumes=volumes, volume_mounts=mounts_))
    await node.ended("a")
    assert node.output("a") == [
        "value other other", "config is read-only", "host is read-only", "host", "memory is full",
        "shm works",
    ]  # fmt: skip
    assert mounts.is_mount_point(node.layout.volumes("a") / "secret")


@scenario
async def a_missing_host_path_is_refused(node: Stage) -> None:
    volume = OrderedVolume(Volume(name="volume", host_path=HostPath(path="/does/not/exist")))
    wanted = node.order("a", "true", volumes=(volume,))
    assert (await refused(node.runtime.prepare(wanted))).reason == "HostPathNotFound"


@scenario
async def a_host_path_is_the_nodes_and_never_the_agents(node: Stage) -> None:
    """As in a Pod: the agent's own /etc is another than the node's."""
    root = Path("/srv/root-of-the-node")
    for name in ("etc", "srv/data", str(node.layout.state_dir)[1:]):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "etc/resolv.conf").write_text("nameserver 192.0.2.53\n")
    (root / "srv/data/file").write_text("the node's")
    (root / "srv/link").unlink(missing_ok=True)
    (root / "srv/link").symlink_to("/srv/../../../srv/data")
    secret = Path("/srv/key-of-the-agent")
    secret.touch()
    (root / "srv/data/alias").unlink(missing_ok=True)
    (root / "srv/data/alias").hardlink_to(secret)
    secrets = (Path("/srv/keys"), secret)
    layout = dataclasses.replace(node.layout, host_root=root, secrets=secrets)
    runtime = new_runtime(layout, registry=node.registry)

    mount = VolumeMount(name="v", mount_path="/v")
    plain = node.order("a", "cat /v/file /etc/resolv.conf", volume_mounts=(mount,))
    part = mount.model_copy(update={"sub_path": "alias"})
    partly = plain.container.model_copy(update={"volume_mounts": (part,)})

    def wanted(path: str, container: Container = plain.container) -> Order:
        volume = OrderedVolume(Volume(name="v", host_path=HostPath(path=path)))
        return dataclasses.replace(plain, container=container, volumes=(volume,))

    for path in ("/", "/srv", "/srv/keys", f"{node.layout.state_dir}/journal", "/var/lib"):
        assert (await refused(runtime.prepare(wanted(path)))).reason == "HostPathRefused", path
    aliased = wanted("/srv/data", partly)
    assert (await refused(runtime.prepare(aliased))).reason == "HostPathRefused"
    await runtime.prepare(wanted("/srv/link"))
    await runtime.start("a")
    await node.ended("a")
    assert node.output("a") == ["the node'snameserver 192.0.2.53"]


@scenario
async def a_process_gets_what_the_container_says(node: Stage) -> None:
    context = SecurityContext(
        run_as_user=12, capabilities=Capabilities(drop=("ALL",), add=("NET_BIND_SERVICE",)),
        read_only_root_filesystem=True,
    )  # fmt: skip
    script = """
        echo $(id -u):$(id -g) $(pwd) $(cat /etc/hostname) $HOSTNAME $TWO
        grep CapBnd /proc/self/status
        touch /x 2>/dev/null || echo read-only
    """
    env = (EnvVar(name="ONE", value="1"), EnvVar(name="TWO", value="$(ONE)2"))
    wanted = node.order(
        "a", script, env=env, hostname="named", working_dir="/usr", security_context=context
    )
    await node.start(wanted)
    await node.ended("a")
    first, capabilities, last = node.output("a")
    assert first.partition(" ")[2] == "/usr named named $(ONE)2"  # the operator expands
    assert first.startswith("12:")
    assert int(capabilities.split()[1], 16) == 1 << 10
    assert last == "read-only"


@scenario
async def a_terminal_is_one(node: Stage) -> None:
    script = "test -t 0 && test -t 1 && echo terminal"
    await node.start(node.order("a", script, tty=True))
    await node.ended("a")
    assert [line.strip() for line in node.output("a")] == ["terminal"]


@scenario
async def standard_input_is_empty_unless_wanted(node: Stage) -> None:
    await node.start(node.order("a", "cat; echo end"))
    await node.ended("a")
    assert node.output("a") == ["end"]
    await node.start(node.order("b", "read line; echo $line", stdin=True))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as attached:
        attached.connect(str(node.layout.bundle("b") / "attach"))
        attached.send(b"typed\n")
        await node.ended("b")
    assert node.output("b") == ["typed"]


@scenario
async def calls_that_criu_cannot_dump_are_refused(node: Stage) -> None:
    # io_uring_setup, landlock_create_ruleset, userfaultfd, unshare(CLONE_NEWUSER)
    calls = "for (425, 444, 323, 272) { print syscall($_, 0x10000000, 0), q( ), $!+0, qq(\\n) }"
    script = f"exec perl -e '{calls}'"
    await node.start(node.order("a", script))
    await node.ended("a")
    if os.uname().machine == "x86_64":
        assert node.output("a") == ["-1 38", "-1 38", "-1 1", "-1 1"]


@scenario
async def a_command_that_is_not_there_leaves_nothing_running(node: Stage) -> None:
    wanted = node.order("a", "true")
    container = wanted.container.model_copy(update={"command": ("/no/such/program",)})
    wanted = Order(id="a", name="a", container=container)
    error = await refused(node.start(wanted))
    assert error.reason == "ContainerStartFailed"
    assert "/no/such/program" in error.message
    assert node.runtime.inspect("a").state is State.ABSENT


@scenario
async def commands_run_in_the_container(node: Stage) -> None:
    await node.start(node.order("a", "sleep 100"))
    words = ["/bin/sh", "-c", "echo $HOSTNAME; exit 4"]
    done = await node.runtime.execute("a", words, timeout_seconds=10)
    assert (done.status, done.output) == (4, "a\n")
    slow = node.runtime.execute("a", ["/bin/sleep", "50"], timeout_seconds=0.3)
    assert (await refused(slow)).reason == "DeadlineExceeded"
    members = cgroups.members(node.runtime.hierarchies, node.layout.cgroup("a"))
    await until(lambda: all(b"50" not in command(pid) for pid in members))


@scenario
async def a_known_image_needs_no_network(node: Stage) -> None:
    first = await node.runtime.images.pull(node.image)
    deaf = ImageStore(node.layout.image_store)  # would insist on HTTPS, which nobody speaks there
    name = node.image.rpartition(":")[0]
    assert await deaf.pull(f"{name}@{first.digest}") == first
    assert await deaf.pull(node.image) == first


@scenario
async def images_that_cannot_be_had_are_named(node: Stage) -> None:
    assert (await refused(node.runtime.images.pull("Not An Image"))).reason == "InvalidImage"
    absent = await refused(node.runtime.images.pull(f"{node.registry}/no-such-image:1"))
    assert absent.reason == "ImagePullFailed"
    silent = await refused(node.runtime.images.pull("127.0.0.1:1/x:1"))
    assert silent.reason == "ImagePullFailed"


@scenario
async def simultaneous_pulls_share_one(node: Stage) -> None:
    store = ImageStore(node.layout.state_dir / "other-images", insecure_registries={node.registry})
    images = await asyncio.gather(*(store.pull(node.image) for _ in range(3)))
    assert len({image.rootfs for image in images}) == 1
    assert await store.prune([images[0].digest]) == ()
    assert await store.prune([]) == (images[0].digest,)
    assert not list((node.layout.state_dir / "other-images").glob("*-*"))


@scenario
async def an_upper_layer_can_be_moved(node: Stage) -> None:
    script = """
        rm /etc/debian_version /etc/passwd; echo new > /etc/new; mkdir -p /usr/share/new
        echo changed >> /etc/group; mv /etc/group /etc/other; rm -r /usr/share/doc
    """
    await node.start(node.order("a", f"{script}; mkdir /usr/share/doc; sync"))
    await node.ended("a")
    before = tree(node.layout.rootfs("a"))
    await node.runtime.prepare(node.order("b", "true"))
    copy_trees(node.layout, source="a", target="b")
    node.runtime.mount("b")
    assert tree(node.layout.rootfs("b")) == before


@scenario
async def what_crashes_half_way_can_be_done_again(node: Stage) -> None:
    wanted = node.order("a", "sleep 100")
    await node.runtime.prepare(wanted)
    node.runtime.mount("a")
    await node.runtime.prepare(wanted)
    node.runtime.mount("a")
    cgroups.create(node.runtime.hierarchies, node.layout.cgroup("a"))
    node.freeze("a")  # what a node leaves behind that loses its power inside a handover
    await node.start(wanted)
    assert node.runtime.inspect("a").state is State.RUNNING
    await node.runtime.remove("a")
    await node.runtime.remove("a")
    assert not node.layout.container("a").exists()


async def perform(name: str, *, stage: Stage) -> None:
    try:
        await SCENARIOS[name](stage)
    finally:
        await stage.clear()


def main(name: str, image: str, cgroup: str) -> None:
    layout = Layout(
        Path("/var/lib/transship/runtime-test"), Path("/run/runtime-test"), f"{cgroup}/runtime-test"
    )
    runtime = new_runtime(layout, registry=image.partition("/")[0])
    asyncio.run(perform(name, stage=Stage(layout, image, runtime)))


if __name__ == "__main__":
    main(*sys.argv[1:])
