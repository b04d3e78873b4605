"""Containers on one node by the runtime package alone: no agent, no operator has a hand in it.

Each scenario below is sent to a lab's node and run there by the node's own Python; it uses the
names of PRELUDE, and sees the world from where an agent does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

from transship.common.processes import run_blocking
from transship.lab.nodes import enter_words
from transship.lab.state import LabState, lab_dir

pytestmark = pytest.mark.lab

NODE = "node-a"
PYTHON = "/opt/transship/bin/python"

PRELUDE = """
import asyncio, json, os, shutil, signal, subprocess, sys, time
from pathlib import Path
from transship.api.container import (
    Capabilities, ConfigMapVolume, Container, EmptyDir, EmptyDirMedium, EnvVar, HostPath, Resources,
    ResourceList, SecretVolume, SecurityContext, Volume, VolumeMount,
)
from transship.common.errors import TransshipError
from transship.runtime import cgroups, logs, mounts, rootfs
from transship.runtime.containers import TREES, Runtime, State
from transship.runtime.images import ImageStore
from transship.runtime.layout import Layout
from transship.runtime.orders import Order
from transship.runtime.volumes import OrderedVolume, VolumeFile

IMAGE, CGROUP = sys.argv[1:]
REGISTRY = IMAGE.partition("/")[0]
STATE, RUN = Path("/var/lib/transship/runtime-test"), Path("/run/runtime-test")
LAYOUT = Layout(STATE, RUN, f"{CGROUP}/runtime-test")
VOLUME = "volume"

def new_runtime():
    return Runtime(LAYOUT, images=ImageStore(LAYOUT.image_store, insecure_registries={REGISTRY}))

def network(name):
    path = LAYOUT.netns(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    subprocess.run(["unshare", f"--net={path}", "true"], check=True)

def order(name, script, *, volumes=(), **container):
    network(name)
    words = ("/bin/sh", "-c", script)
    return Order(id=name, name=name, volumes=volumes,
                 container=Container(image=IMAGE, command=words, **container))

def output(name):
    return [line.text for line in logs.read(LAYOUT.log(name))]

async def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)

async def ended(runtime, name):
    await until(lambda: runtime.inspect(name).state is State.STOPPED)
    await until(lambda: runtime.inspect(name).exit_code is not None)
    return runtime.inspect(name)

async def refused(coroutine):
    try:
        await coroutine
    except TransshipError as e:
        return e
    raise AssertionError("was accepted")

async def play(scenario):
    runtime = new_runtime()
    try:
        await scenario(runtime)
    finally:
        for path in [*LAYOUT.all_containers.glob("*"), *LAYOUT.netns("x").parent.glob("*")]:
            await runtime.remove(path.name)
        for path in LAYOUT.netns("x").parent.glob("*"):
            mounts.unmount(path)
        left = [str(point) for root in (STATE, RUN) for point in mounts.mounts_below(root)]
        assert not left, left
        shutil.rmtree(RUN, ignore_errors=True)
"""


async def output_and_exit_code_arrive(runtime):
    started = await runtime.create_and_start(order("a", "echo out; echo err >&2; exit 3"))
    async for exit_ in runtime.watch_exits():
        assert (exit_.container_id, exit_.code) == ("a", 3)
        break
    seen = runtime.inspect("a")
    assert seen.state is State.STOPPED
    assert seen.exit_code == 3
    assert seen.exited_at is not None
    assert not seen.oom_killed
    assert started.pid > 1
    streams = {(line.stream, line.text) for line in logs.read(LAYOUT.log("a"))}
    assert streams == {("stdout", "out"), ("stderr", "err")}


async def a_container_outlives_its_starter(runtime):
    script = "while true; do echo tick; sleep 0.05; done"
    child = os.fork()
    if child == 0:

        async def start_and_die():
            await new_runtime().create_and_start(order("a", script))
            os.kill(os.getpid(), signal.SIGKILL)

        asyncio.set_event_loop(None)
        asyncio.events._set_running_loop(None)
        asyncio.run(start_and_die())
    os.waitpid(child, 0)
    before = len(output("a"))
    await until(lambda: len(output("a")) > before + 3)
    assert runtime.inspect("a").state is State.RUNNING
    seen = await runtime.stop("a", grace_seconds=0)
    assert seen.exit_code == 137


async def conmon_is_outside_the_cgroups_of_its_starter(runtime):
    await runtime.create_and_start(order("a", "sleep 100"))
    pid = int(LAYOUT.conmon_pidfile("a").read_text())
    lines = Path(f"/proc/{pid}/cgroup").read_text().split()
    assert all(line.endswith("/runtime-test/conmon") for line in lines), lines
    assert os.getsid(pid) == pid


async def stop_asks_first(runtime):
    script = "trap 'exit 7' TERM; echo ready; while true; do sleep 0.02; done"
    await runtime.create_and_start(order("a", script))
    await until(lambda: output("a"))
    begin = time.monotonic()
    seen = await runtime.stop("a", grace_seconds=10)
    assert seen.exit_code == 7
    assert time.monotonic() - begin < 2


async def stop_uses_the_signal_of_the_container(runtime):
    script = "trap 'exit 8' USR1; echo ready; while true; do sleep 0.02; done"
    await runtime.create_and_start(order("a", script, stop_signal="SIGUSR1"))
    await until(lambda: output("a"))
    assert (await runtime.stop("a", grace_seconds=10)).exit_code == 8


async def stop_kills_what_does_not_listen(runtime):
    await runtime.create_and_start(order("a", "trap '' TERM; echo ready; sleep 100; sleep 100"))
    await until(lambda: output("a"))
    begin = time.monotonic()
    seen = await runtime.stop("a", grace_seconds=0.3)
    assert seen.exit_code == 137
    assert 0.3 <= time.monotonic() - begin < 2
    assert not cgroups.members(runtime.hierarchies, LAYOUT.cgroup("a"))


async def memory_beyond_the_limit_is_told(runtime):
    limits = Resources(limits=ResourceList(memory="24Mi"))
    script = "exec python3 -c 'x = bytearray(200 << 20)'"
    await runtime.create_and_start(order("a", script, resources=limits))
    seen = await ended(runtime, "a")
    assert seen.exit_code == 137
    assert seen.oom_killed


async def a_restart_keeps_files_until_they_are_discarded(runtime):
    volume = OrderedVolume(Volume(name=VOLUME, empty_dir=EmptyDir()))
    mount = VolumeMount(name=VOLUME, mount_path="/data")
    script = "echo x >> /grown; echo x >> /data/grown; cat /grown | wc -c; cat /data/grown | wc -c"
    wanted = order("a", script, volumes=(volume,), volume_mounts=(mount,))
    await runtime.create_and_start(wanted)
    await ended(runtime, "a")
    await runtime.start("a")
    await ended(runtime, "a")
    assert output("a") == ["2", "2", "4", "4"]
    await runtime.discard_changes("a")
    await runtime.start("a")
    await ended(runtime, "a")
    assert output("a")[-2:] == ["2", "6"]


async def starting_what_runs_changes_nothing(runtime):
    first = await runtime.create_and_start(order("a", "sleep 100"))
    assert await runtime.start("a") == first


async def a_frozen_copy_dies_without_running_on(runtime):
    script = "while true; do echo x; done & while true; do echo x; done & wait"
    await runtime.create_and_start(order("a", f"({script}) >> /grown"))
    grown = LAYOUT.upper("a") / "grown"
    await until(lambda: grown.exists() and grown.stat().st_size > 10000)
    freeze(runtime, "a")
    size = grown.stat().st_size
    await runtime.destroy("a")
    assert grown.stat().st_size == size
    assert runtime.inspect("a").state is State.ABSENT


async def volumes_are_what_they_are_in_a_pod(runtime):
    host = STATE / "host"
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
    await runtime.create_and_start(order("a", script, volumes=volumes, volume_mounts=mounts_))
    await ended(runtime, "a")
    assert output("a") == [
        "value other other", "config is read-only", "host is read-only", "host", "memory is full",
        "shm works",
    ]  # fmt: skip
    assert mounts.is_mount_point(LAYOUT.volumes("a") / "secret")


async def a_missing_host_path_is_refused(runtime):
    volume = OrderedVolume(Volume(name=VOLUME, host_path=HostPath(path="/does/not/exist")))
    wanted = order("a", "true", volumes=(volume,))
    assert (await refused(runtime.prepare(wanted))).reason == "HostPathNotFound"


async def a_process_gets_what_the_container_says(runtime):
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
    wanted = order(
        "a", script, env=env, hostname="named", working_dir="/usr", security_context=context
    )
    await runtime.create_and_start(wanted)
    await ended(runtime, "a")
    first, capabilities, last = output("a")
    assert first.partition(" ")[2] == "/usr named named 12"
    assert first.startswith("12:")
    assert int(capabilities.split()[1], 16) == 1 << 10
    assert last == "read-only"


async def calls_that_criu_cannot_dump_are_refused(runtime):
    script = """exec python3 -c '
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for number in (425, 323, 272):  # io_uring_setup, userfaultfd, unshare
    print(libc.syscall(number, 0x10000000, 0), ctypes.get_errno())
'"""
    await runtime.create_and_start(order("a", script))
    await ended(runtime, "a")
    if os.uname().machine == "x86_64":
        assert output("a") == ["-1 38", "-1 1", "-1 1"]


async def a_command_that_is_not_there_leaves_nothing_running(runtime):
    wanted = order("a", "true")
    container = wanted.container.model_copy(update={"command": ("/no/such/program",)})
    wanted = Order(id="a", name="a", container=container)
    error = await refused(runtime.create_and_start(wanted))
    assert error.reason == "ContainerStartFailed"
    assert "/no/such/program" in error.message
    assert runtime.inspect("a").state is State.ABSENT


async def commands_run_in_the_container(runtime):
    await runtime.create_and_start(order("a", "sleep 100"))
    words = ["/bin/sh", "-c", "echo $HOSTNAME; exit 4"]
    done = await runtime.execute("a", words, timeout_seconds=10)
    assert (done.status, done.output) == (4, "a\n")
    slow = runtime.execute("a", ["/bin/sleep", "50"], timeout_seconds=0.3)
    assert (await refused(slow)).reason == "DeadlineExceeded"
    members = cgroups.members(runtime.hierarchies, LAYOUT.cgroup("a"))
    await until(lambda: all(b"50" not in command(pid) for pid in members))


async def a_known_image_needs_no_network(runtime):
    first = await runtime.images.pull(IMAGE)
    deaf = ImageStore(LAYOUT.image_store)  # would insist on HTTPS, which nobody speaks there
    name = IMAGE.rpartition(":")[0]
    assert await deaf.pull(f"{name}@{first.digest}") == first
    assert await deaf.pull(IMAGE) == first


async def images_that_cannot_be_had_are_named(runtime):
    assert (await refused(runtime.images.pull("Not An Image"))).reason == "InvalidImage"
    absent = await refused(runtime.images.pull(f"{REGISTRY}/no-such-image:1"))
    assert absent.reason == "ImagePullFailed"
    silent = await refused(runtime.images.pull("127.0.0.1:1/x:1"))
    assert silent.reason == "ImagePullFailed"


async def simultaneous_pulls_share_one(runtime):
    store = ImageStore(STATE / "other-images", insecure_registries={REGISTRY})
    images = await asyncio.gather(*(store.pull(IMAGE) for _ in range(3)))
    assert len({image.rootfs for image in images}) == 1
    assert await store.prune([images[0].digest]) == ()
    assert await store.prune([]) == (images[0].digest,)
    assert not list((STATE / "other-images").glob("*-*"))


async def an_upper_layer_can_be_moved(runtime):
    script = """
        rm /etc/debian_version /etc/passwd; echo new > /etc/new; mkdir -p /usr/share/new
        echo changed >> /etc/group; mv /etc/group /etc/other; rm -r /usr/share/doc
    """
    await runtime.create_and_start(order("a", f"{script}; mkdir /usr/share/doc; sync"))
    await ended(runtime, "a")
    before = tree(LAYOUT.rootfs("a"))
    await runtime.prepare(order("b", "true"))
    foreign = [
        f"--filter=-x trusted.overlay.{name}" for name in ("origin", "uuid", "nlink", "impure")
    ]
    trees = [LAYOUT.container("a") / name for name in TREES]
    copy = ["rsync", "-aHAX", "--numeric-ids", "-D", "--delete", *foreign, *trees]
    subprocess.run([*copy, LAYOUT.container("b")], check=True)
    runtime.mount("b")
    assert tree(LAYOUT.rootfs("b")) == before


async def what_crashes_half_way_can_be_done_again(runtime):
    wanted = order("a", "sleep 100")
    await runtime.prepare(wanted)
    runtime.mount("a")
    await runtime.prepare(wanted)
    runtime.mount("a")
    cgroups.create(runtime.hierarchies, LAYOUT.cgroup("a"))
    freeze(runtime, "a")  # what a node leaves behind that loses its power inside a handover
    await runtime.create_and_start(wanted)
    assert runtime.inspect("a").state is State.RUNNING
    await runtime.remove("a")
    await runtime.remove("a")
    assert not LAYOUT.container("a").exists()


HELPERS = """
def freeze(runtime, name):
    path = runtime.hierarchies.path(LAYOUT.cgroup(name), controller="freezer")
    if runtime.hierarchies.unified:
        (path / "cgroup.freeze").write_text("1")
        return
    (path / "freezer.state").write_text("FROZEN")
    while "FROZEN" not in (path / "freezer.state").read_text():
        time.sleep(0.001)

def command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""

def tree(root):
    found = {}
    for directory, _, names in os.walk(root):
        found[directory.removeprefix(str(root))] = sorted(names)
    return found
"""

SCENARIOS = (
    output_and_exit_code_arrive,
    a_container_outlives_its_starter,
    conmon_is_outside_the_cgroups_of_its_starter,
    stop_asks_first,
    stop_uses_the_signal_of_the_container,
    stop_kills_what_does_not_listen,
    memory_beyond_the_limit_is_told,
    a_restart_keeps_files_until_they_are_discarded,
    starting_what_runs_changes_nothing,
    a_frozen_copy_dies_without_running_on,
    volumes_are_what_they_are_in_a_pod,
    a_missing_host_path_is_refused,
    a_process_gets_what_the_container_says,
    calls_that_criu_cannot_dump_are_refused,
    a_command_that_is_not_there_leaves_nothing_running,
    commands_run_in_the_container,
    a_known_image_needs_no_network,
    images_that_cannot_be_had_are_named,
    simultaneous_pulls_share_one,
    an_upper_layer_can_be_moved,
    what_crashes_half_way_can_be_done_again,
)


def program(scenario: Callable[..., object]) -> str:
    """What the node's Python is given to read."""
    play = f"asyncio.run(play({scenario.__name__}))\n"
    return "\n".join([PRELUDE, HELPERS, inspect.getsource(scenario), play])


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_on_a_node(lab: LabState, scenario: Callable[..., object]) -> None:
    enter = enter_words(lab_dir(lab.name), NODE)
    words: list[str | Path] = [*enter, PYTHON, "-", f"{lab.registry}/counter:1"]
    run_blocking([*words, lab.cgroup_of(NODE)], stdin=program(scenario).encode())
