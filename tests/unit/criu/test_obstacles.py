from __future__ import annotations

import os
from collections.abc import Mapping

import pytest

from transship.api.reasons import Reason
from transship.criu.census import Census, Deleted, Descriptor, Mount, Task
from transship.criu.obstacles import MOST_OBSTACLES, obstacles_in
from transship.linux.pidfds import Socket

OWN = {"pid": 1, "ipc": 2, "uts": 3, "user": 4, "time": 5, "mnt": 6, "net": 7}
MOUNTS = {1: Mount("overlay", "/", (0, 50)), 2: Mount("proc", "/proc", (0, 51))}
WATCH = "inotify wd:1 ino:2a sdev:{:x} mask:fff ignored_mask:0 fhandle-bytes:8"


def census(
    *descriptors: Descriptor,
    tracer: int = 0,
    dead_leader: bool = False,
    namespaces: Mapping[str, int] = OWN,
    mapped: tuple[str, ...] = (),
    peers: Mapping[int, int] | None = None,
    queues: tuple[str, ...] = (),
    mounts: Mapping[int, Mount] = MOUNTS,
) -> Census:
    """A container of two processes; what is in question belongs to the second."""
    second = Task(
        pid=7,
        command="worker",
        tracer=tracer,
        dead_leader=dead_leader,
        namespaces=namespaces,
        descriptors=descriptors,
        mapped=mapped,
    )
    tasks = (Task(pid=1, command="main", namespaces=OWN), second)
    return Census(
        tasks=tasks,
        mounts=mounts,
        runtime_mounts=frozenset({"/volume"}),
        user_namespace=OWN["user"],
        peers=peers or {},
        queues=queues,
    )


def sock(family: int, kind: int, protocol: int) -> Descriptor:
    return Descriptor(4, "socket:[99]", socket=Socket(family, kind, protocol))


def flags(value: int) -> str:
    return f"pos:\t0\nflags:\t0{value:o}\nmnt_id:\t15\n"


OF_THE_CONTAINER = {Reason.MESSAGE_QUEUE, Reason.UNSUPPORTED_MOUNT}

HINDERED = {
    "a debugger": (census(tracer=1), Reason.TRACED, "traced by process 1 (main)"),
    "a container in the container": (
        census(namespaces={**OWN, "pid": 11, "uts": 13}),
        Reason.NESTED_NAMESPACE,
        "a pid and uts namespace of its own",
    ),
    "a user namespace": (
        census(namespaces={**OWN, "user": 14}),
        Reason.NESTED_NAMESPACE,
        "a user namespace of its own",
    ),
    "a file of the node": (
        census(Descriptor(4, "/var/log/node", mount=99)),
        Reason.FOREIGN_FILE,
        "/var/log/node open (descriptor 4)",
    ),
    "an overlay in the container": (
        census(mounts={**MOUNTS, 3: Mount("overlay", "/inner", (0, 52))}),
        Reason.UNSUPPORTED_MOUNT,
        "/inner",
    ),
    "a BPF map": (census(Descriptor(4, "anon_inode:bpf-map")), Reason.UNSUPPORTED_FILE, "bpf-map"),
    "a listener of its own seccomp filter": (
        census(Descriptor(4, "anon_inode:seccomp notify")),
        Reason.UNSUPPORTED_FILE,
        "seccomp notify",
    ),
    "a main thread that has ended": (
        census(dead_leader=True),
        Reason.MAIN_THREAD_ENDED,
        "main thread",
    ),
    "a message queue": (census(queues=("jobs",)), Reason.MESSAGE_QUEUE, "/jobs"),
    "io_uring": (
        census(Descriptor(4, "anon_inode:[io_uring]")),
        Reason.IO_URING_IN_USE,
        "io_uring",
    ),
    "a perf event": (
        census(Descriptor(4, "anon_inode:[perf_event]")),
        Reason.UNSUPPORTED_FILE,
        "perf_event open (descriptor 4)",
    ),
    "a BPF program": (
        census(Descriptor(4, "anon_inode:bpf-prog")),
        Reason.UNSUPPORTED_FILE,
        "bpf-prog",
    ),
    "a device": (
        census(Descriptor(4, "/dev/kvm", device=(10, 232))),
        Reason.UNSUPPORTED_FILE,
        "/dev/kvm (10:232)",
    ),
    "secret memory": (
        census(mapped=("/secretmem (deleted)",)),
        Reason.UNSUPPORTED_FILE,
        "secret memory",
    ),
    "a file with another name": (
        census(Descriptor(4, "/a (deleted)", deleted=Deleted(links=1, bytes=0))),
        Reason.LINK_LOST,
        "/a open (descriptor 4)",
    ),
    "a large deleted file": (
        census(Descriptor(4, "/a (deleted)", deleted=Deleted(links=0, bytes=1 << 30))),
        Reason.DELETED_FILE_TOO_LARGE,
        "1073741824 bytes",
    ),
    "a directory of /proc": (
        census(Descriptor(4, "/proc/7", mount=2)),
        Reason.UNSUPPORTED_FILE,
        "/proc/7 open",
    ),
    "a pipe of packets": (
        census(Descriptor(4, "pipe:[5]", details=flags(os.O_DIRECT | os.O_WRONLY))),
        Reason.UNSUPPORTED_FILE,
        "packet mode",
    ),
    "a handle of a thread": (
        census(Descriptor(4, "anon_inode:[pidfd]", details=flags(os.O_EXCL | os.O_RDWR))),
        Reason.UNSUPPORTED_FILE,
        "thread",
    ),
    "Multipath TCP": (census(sock(2, 1, 262)), Reason.MPTCP_SOCKET, "Multipath TCP"),
    "SCTP": (census(sock(10, 1, 132)), Reason.UNSUPPORTED_SOCKET, "protocol 132"),
    "a CAN bus": (census(sock(29, 3, 1)), Reason.UNSUPPORTED_SOCKET, "address family 29"),
    "a connection to the node": (
        census(Descriptor(4, "socket:[10]"), peers={10: 77, 77: 10}),
        Reason.EXTERNAL_CONNECTION,
        "descriptor 4",
    ),
    "a watch of /proc": (
        census(Descriptor(4, "anon_inode:inotify", details=WATCH.format(51))),
        Reason.FILE_WATCH,
        "/proc",
    ),
}

MOVABLE = {
    "nothing special": census(Descriptor(0, "/dev/null", device=(1, 3))),
    "its own mount and network namespace": census(namespaces={**OWN, "mnt": 16, "net": 17}),
    "a process that is just ending": census(namespaces={}),
    "what CRIU knows of": census(
        *(
            Descriptor(number, f"anon_inode:{name}")
            for number, name in enumerate(
                ("[eventfd]", "[eventpoll]", "[signalfd]", "[timerfd]", "[pidfd]", "inotify")
            )
        )
    ),
    "a terminal": census(Descriptor(4, "/dev/pts/0", device=(136, 0))),
    "a volume that is an overlay on the node": census(
        mounts={**MOUNTS, 3: Mount("overlay", "/volume", (0, 52))}
    ),
    "a file of its own": census(Descriptor(4, "/etc/hosts", mount=1)),
    "a memory file": census(Descriptor(4, "/memfd:x (deleted)", mount=99)),
    "a deleted file": census(Descriptor(4, "/a (deleted)", deleted=Deleted(links=0, bytes=4096))),
    "a plain pipe": census(Descriptor(4, "pipe:[5]", details=flags(os.O_WRONLY))),
    "TCP, not bound yet": census(sock(2, 1, 6)),
    "a raw socket of any protocol": census(sock(2, 3, 132)),
    "a connection inside": census(
        Descriptor(4, "socket:[10]"), Descriptor(5, "socket:[11]"), peers={10: 11, 11: 10}
    ),
    "a connection that nobody has accepted": census(Descriptor(4, "socket:[10]"), peers={10: 0}),
    "a watch of its files": census(
        Descriptor(4, "anon_inode:inotify", details=WATCH.format(50)),
    ),
}


@pytest.mark.parametrize("case", HINDERED)
def test_what_criu_refuses_is_said_with_its_culprit(case: str) -> None:
    actual, reason, words = HINDERED[case]
    [found] = obstacles_in(actual)
    assert found.reason == reason.value
    assert words in found.message
    assert found.hint == reason.hint
    assert "process 7 (worker)" in found.message or reason in OF_THE_CONTAINER


@pytest.mark.parametrize("case", MOVABLE)
def test_what_moves_is_not_refused(case: str) -> None:
    assert obstacles_in(MOVABLE[case]) == ()


def test_a_leak_of_descriptors_does_not_fill_the_report() -> None:
    leak = (Descriptor(number, "anon_inode:[perf_event]") for number in range(1000))
    assert len(obstacles_in(census(*leak))) == MOST_OBSTACLES


def test_a_container_that_has_just_ended_is_not_judged() -> None:
    assert obstacles_in(Census(tasks=())) == ()
