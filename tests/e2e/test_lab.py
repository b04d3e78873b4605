"""The lab itself: nodes, network, faults, and its complete removal.

The nodes are booted without Kubernetes and without agents, which takes a second.
"""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from transship.lab import cluster
from transship.lab.cleanup import leftovers, remove_lab
from transship.lab.daemons import (
    daemon_alive,
    daemon_names,
    daemon_pid,
    kill_daemon,
    log_path,
    signal_daemon,
)
from transship.lab.nodes import cgroups, namespace_nodes, network
from transship.lab.nodes.image import ensure_node_image
from transship.lab.proof import fault_injection
from transship.lab.state import LabState, lab_dir, load_state, node_names

pytestmark = pytest.mark.lab

CLOSED_PORT = 9
ECHO_PORT = 5000
KNOCK = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 1)"
ECHO = f"""
import socket
server = socket.create_server(("", {ECHO_PORT}))
print("listens", flush=True)
peer = server.accept()[0]
while data := peer.recv(65536):
    peer.sendall(data)
"""
MEASURE = f"""
import socket, sys, time
server = socket.create_server(("", {ECHO_PORT}))
print("listens", flush=True)
peer = server.accept()[0]
start, count = time.monotonic(), 0
while data := peer.recv(1 << 20):
    count += len(data)
print("rate", int(count * 8 / (time.monotonic() - start)), flush=True)
"""


@dataclass(frozen=True)
class BareLab:
    """Nodes and a network, without services."""

    directory: Path

    @property
    def state(self) -> LabState:
        return load_state(self.directory)

    def run(self, host: str, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [*namespace_nodes.enter_words(self.directory, host), *words]
        return subprocess.run(
            argv,
            env=namespace_nodes.ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def output(self, host: str, *words: str) -> str:
        done = self.run(host, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def reaches(self, source: str, target: str) -> bool:
        """Whether the target refuses a connection to a closed port, instead of a timeout."""
        address = str(self.state.address(target))
        error = self.run(source, "python3", "-c", KNOCK, address, str(CLOSED_PORT)).stderr
        assert "ConnectionRefusedError" in error or "TimeoutError" in error, error
        return "ConnectionRefusedError" in error

    def serve(self, host: str, program: str) -> str:
        """Start a program on a node and wait until it listens; the name of its log."""
        name = f"server-{host}-{time.monotonic_ns()}"
        argv = ["python3", "-c", program]
        namespace_nodes.start_in_node(self.directory, self.state, host, name=name, argv=argv)
        self.await_log(name, "listens")
        return name

    def await_log(self, name: str, text: str) -> str:
        deadline = time.monotonic() + 20
        while text not in (log := log_path(self.directory, name).read_text()):
            assert time.monotonic() < deadline, log
            time.sleep(0.01)
        return log


def stat_of(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: state, parent and more."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def make_bare_lab(name: str, count: int) -> BareLab:
    directory = lab_dir(name)
    remove_lab(directory)
    image = ensure_node_image(lambda _: None)
    state = cluster.reserve_network(directory, node_names(count), link_rate=None, image=image)
    network.create_network(directory, state)
    for host in (*state.nodes, "operator"):
        namespace_nodes.boot_node(directory, state, host)
    return BareLab(directory)


@pytest.fixture(scope="module")
def _bare() -> Iterator[BareLab]:
    lab = make_bare_lab("e2e-bare", 3)
    yield lab
    remove_lab(lab.directory)


@pytest.fixture
def bare(_bare: BareLab) -> Iterator[BareLab]:
    """A lab whose nodes all run, without partitions."""
    yield _bare
    for name in daemon_names(_bare.directory):
        if name.startswith("server-"):
            kill_daemon(_bare.directory, name)
    for node in _bare.state.nodes:
        if not namespace_nodes.node_alive(_bare.directory, node):
            namespace_nodes.boot_node(_bare.directory, _bare.state, node)
    fault_injection.heal(_bare.directory, _bare.state)


def test_a_node_sees_nothing_of_the_machine(bare: BareLab) -> None:
    mounts = bare.output("node-a", "cat", "/proc/self/mountinfo")
    roots = [line.split()[4] for line in mounts.splitlines()]
    assert roots.count("/") == 1
    assert not [root for root in roots if root.startswith(("/work", "/home"))]
    assert bare.run("node-a", "test", "-e", str(bare.directory)).returncode != 0
    processes = bare.output("node-a", "sh", "-c", "ls -d /proc/[0-9]*").split()
    assert len(processes) <= 4  # its process 1, the shell, ls


def test_a_node_has_a_name_a_disk_and_an_empty_run(bare: BareLab) -> None:
    assert bare.output("node-a", "cat", "/proc/sys/kernel/hostname") == "node-a"
    assert bare.output("node-a", "stat", "-f", "-c", "%T", "/run") == "tmpfs"
    assert bare.output("node-a", "stat", "-f", "-c", "%T", "/var/lib/transship") == "ext2/ext3"
    blocks = bare.output("node-a", "stat", "-f", "-c", "%b %S", "/var/lib/transship").split()
    assert int(blocks[0]) * int(blocks[1]) > 0.9 * namespace_nodes.DISK_BYTES


def test_orphans_are_reaped(bare: BareLab) -> None:
    bare.output("node-a", "sh", "-c", "(sleep 0.05 &) ; true")
    deadline = time.monotonic() + 5
    while "sleep" in bare.output("node-a", "sh", "-c", "cat /proc/[0-9]*/stat 2>&1; true"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_everyone_reaches_everyone_the_machine_included(bare: BareLab) -> None:
    for source in ("node-a", "operator"):
        for target in ("node-b", "operator", "machine"):
            assert source == target or bare.reaches(source, target)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((str(bare.state.address("node-c")), CLOSED_PORT), timeout=1)


def test_a_partition_cuts_two_hosts_and_nobody_else(bare: BareLab) -> None:
    fault_injection.partition(bare.directory, bare.state, source="node-a", target="operator")
    assert not bare.reaches("node-a", "operator")
    assert not bare.reaches("operator", "node-a")
    assert bare.reaches("node-a", "node-b")
    assert bare.reaches("operator", "node-b")
    fault_injection.heal(bare.directory, bare.state)
    assert bare.reaches("node-a", "operator")


def test_partitions_add_up(bare: BareLab) -> None:
    for target in ("node-b", "node-c"):
        fault_injection.partition(bare.directory, bare.state, source="node-a", target=target)
    assert not bare.reaches("node-b", "node-a")
    assert not bare.reaches("node-c", "node-a")
    assert bare.reaches("node-b", "node-c")


def test_a_partition_of_one_direction_loses_only_what_that_side_sends(bare: BareLab) -> None:
    listening = bare.serve("node-b", ECHO)
    fault_injection.partition(
        bare.directory, bare.state, source="node-b", target="node-a", one_way=True
    )
    assert not bare.reaches("node-a", "node-b")
    assert daemon_alive(bare.directory, listening)
    assert len(bare.state.cuts) == 1


def test_a_partition_outlasts_the_restart_of_a_node(bare: BareLab) -> None:
    fault_injection.partition(bare.directory, bare.state, source="node-a", target="node-b")
    namespace_nodes.cut_power(bare.directory, bare.state, "node-a")
    namespace_nodes.boot_node(bare.directory, bare.state, "node-a")
    assert not bare.reaches("node-a", "node-b")
    assert bare.reaches("node-a", "node-c")


def test_a_node_loses_its_power_whatever_has_become_of_its_services(bare: BareLab) -> None:
    """Process 1 has to reap them: nsenter stops for good when its child is stopped."""
    listening = bare.serve("node-a", ECHO)
    pid = daemon_pid(bare.directory, listening)
    for number, state in ((signal.SIGSTOP, "T"), (signal.SIGCONT, "S")):
        signal_daemon(bare.directory, listening, number)
        deadline = time.monotonic() + 5
        while stat_of(pid)[0] != state:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert int(stat_of(pid)[1]) == namespace_nodes.node_pid(bare.directory, "node-a")
    namespace_nodes.cut_power(bare.directory, bare.state, "node-a")
    assert not namespace_nodes.node_alive(bare.directory, "node-a")


def test_nobody_hears_a_last_word_of_a_node_that_lost_power(bare: BareLab) -> None:
    bare.serve("node-a", ECHO)
    with socket.create_connection(
        (str(bare.state.address("node-a")), ECHO_PORT), timeout=5
    ) as peer:
        peer.sendall(b"ping")
        assert peer.recv(4) == b"ping"
        namespace_nodes.cut_power(bare.directory, bare.state, "node-a")
        peer.settimeout(0.5)
        with pytest.raises(TimeoutError):
            peer.recv(1)


def test_a_node_that_comes_back_has_its_disk_and_a_new_boot_and_nothing_else(bare: BareLab) -> None:
    before = bare.output("node-a", "cat", "/proc/sys/kernel/random/boot_id")
    bare.output("node-a", "sh", "-c", "echo kept >/var/lib/transship/file; echo lost >/run/file")
    waiting = bare.serve("node-a", ECHO)
    namespace_nodes.cut_power(bare.directory, bare.state, "node-a")
    assert not daemon_alive(bare.directory, waiting)
    namespace_nodes.boot_node(bare.directory, bare.state, "node-a")
    assert bare.output("node-a", "cat", "/var/lib/transship/file") == "kept"
    assert bare.run("node-a", "test", "-e", "/run/file").returncode != 0
    assert bare.output("node-a", "cat", "/proc/sys/kernel/random/boot_id") != before
    assert bare.reaches("node-a", "node-b")


def test_a_node_with_frozen_processes_loses_power_like_any_other(bare: BareLab) -> None:
    frozen = bare.serve("node-b", ECHO)
    freeze(f"{bare.state.cgroup_of('node-b')}/{namespace_nodes.SYSTEM_CGROUP}")
    namespace_nodes.cut_power(bare.directory, bare.state, "node-b")
    assert not daemon_alive(bare.directory, frozen)
    assert not cgroups.exists(bare.state.cgroup_of("node-b"))


def freeze(cgroup: str) -> None:
    files = ("freezer.state", "FROZEN"), ("cgroup.freeze", "1")
    for root in cgroups.hierarchies():
        for name, value in files:
            file = root / cgroup.strip("/") / name
            if file.exists():
                file.write_text(value)


def test_a_full_disk_is_full_for_its_node_alone(bare: BareLab) -> None:
    size = namespace_nodes.DISK_BYTES * 2
    done = bare.run("node-a", "fallocate", "-l", str(size), "/var/lib/transship/huge")
    assert "No space left" in done.stderr
    bare.run("node-a", "rm", "-f", "/var/lib/transship/huge")
    bare.output("node-b", "sh", "-c", "echo fits >/var/lib/transship/file")


def test_a_process_is_dumped_and_restored_on_a_node(bare: BareLab) -> None:
    script = """
        set -e
        rm -rf /run/images; mkdir -p /run/images
        setsid sleep 300 </dev/null >/dev/null 2>&1 &
        pid=$!
        until [ "$(cat /proc/$pid/comm)" = sleep ]; do :; done
        criu dump --tree $pid --images-dir /run/images --network-lock skip >/dev/null
        ! kill -0 $pid 2>/dev/null || [ "$(cut -d' ' -f3 /proc/$pid/stat)" = Z ]
        wait $pid || true
        criu restore --restore-detached --images-dir /run/images --network-lock skip >/dev/null
        cat /proc/$pid/comm
        kill -9 $pid
    """
    assert bare.output("node-a", "sh", "-c", script) == "sleep"


def test_a_link_rate_holds_in_both_directions_and_goes(bare: BareLab) -> None:
    fault_injection.limit_rate(bare.directory, bare.state, network.parse_rate("100mbit"))
    try:
        assert 80e6 < throughput(bare, "node-a", "node-b") < 105e6
        assert 80e6 < throughput(bare, "node-b", "node-a") < 105e6
    finally:
        fault_injection.limit_rate(bare.directory, bare.state, None)
    assert throughput(bare, "node-a", "node-b") > 300e6


def throughput(lab: BareLab, source: str, target: str) -> float:
    measuring = lab.serve(target, MEASURE)
    send = f"""
import socket, time
peer = socket.create_connection(("{target}", {ECHO_PORT}))
end = time.monotonic() + 0.7
while time.monotonic() < end:
    peer.sendall(bytes(1 << 18))
"""
    lab.output(source, "python3", "-c", send)
    log = lab.await_log(measuring, "rate")
    return float(log.split("rate")[1])


def test_removing_a_lab_leaves_no_trace_and_the_others_alone(bare: BareLab) -> None:
    before = surroundings()
    other = make_bare_lab("e2e-other", 1)
    assert other.reaches("node-a", "operator")
    assert not other.state.network.overlaps(bare.state.network)
    remove_lab(other.directory)
    assert leftovers(other.directory) == []
    assert surroundings() == before
    assert bare.reaches("node-a", "node-b")


def test_a_lab_is_removed_although_its_record_is_damaged(bare: BareLab) -> None:
    other = make_bare_lab("e2e-other", 1)
    for record in (other.directory / "lab.json", other.directory / "daemons/init-node-a.json"):
        record.write_text("{")
    remove_lab(other.directory)
    assert leftovers(other.directory) == []


def surroundings() -> list[str]:
    """What a lab could leave behind on the machine, without what other programs change."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    links = [path.name for path in Path("/sys/class/net").iterdir()]
    loops = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    groups = [str(path) for root in cgroups.hierarchies() for path in root.glob("transship-*")]
    names = ("e2e-other", "e2e-bare", "netns")
    entries = [*mounts, *links, *loops, *groups]
    return sorted(entry for entry in entries if any(name in entry for name in names))


@pytest.mark.parametrize("seconds", [0.6, 0.8, 1.0, 1.3, 2.0, 3.5, 6.0])
def test_a_lab_whose_making_was_killed_is_removed(seconds: float) -> None:
    directory = lab_dir("e2e-killed")
    ensure_node_image(lambda _: None)  # else the kill would hit its making
    make = "from transship.cli import main; main()"
    argv = [sys.executable, "-c", make, "lab", "up", "--name", directory.name]
    starter = subprocess.Popen(argv, stderr=subprocess.DEVNULL, start_new_session=True)
    time.sleep(seconds)  # any moment will do
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    cluster.down(directory.name)
    assert leftovers(directory) == []
