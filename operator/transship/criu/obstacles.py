"""Finds what in a running container keeps CRIU from dumping it, before any freeze.

An ordered chain of checks on a census (criu.census). Each obstacle names the process, the
descriptor and the thing. A check reports only what CRIU 4.2 really refuses;
tests/e2e/test_preflight.py has a container for each.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from transship.api.obstacle import Obstacle, obstacle
from transship.api.reasons import Reason
from transship.criu.census import DELETED, Census, Deleted, Descriptor, Task
from transship.criu.options import GHOST_LIMIT_BYTES
from transship.criu.state_size import is_memory, state_too_large

Check = Callable[[Census], Iterator[Obstacle]]

MOST_OBSTACLES = 16
"""A process that leaks descriptors must not fill the status."""

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET = 1, 2, 10, 16, 17
SOCK_STREAM, SOCK_DGRAM, SOCK_RAW = 1, 2, 3
IPPROTO_MPTCP = 262
FAMILIES = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET}
PROTOCOLS = {0, 1, 6, 17, 58, 136}  # IP's default, ICMP, TCP, UDP, ICMPv6, UDP-Lite

# /dev/null, zero, random and the like are files to CRIU, terminals have their own support
MEMORY_DEVICES, TERMINALS = 1, {4, 5, 136, 137, 138, 139, 140, 141, 142, 143}

ANONYMOUS = re.compile(r"^anon_inode:\[?([^\]]+)\]?$")
DUMPED_ANONYMOUS = {"eventfd", "eventpoll", "inotify", "fanotify", "signalfd", "timerfd", "pidfd"}

PIDFD_THREAD = os.O_EXCL
SECRETMEM = "/secretmem"  # the file system of memfd_secret(2)
PROCESS_DIRECTORY = re.compile(r"^/proc/\d+$")
FLAGS = re.compile(r"^flags:\s*([0-7]+)", re.MULTILINE)

# file systems whose files no handle leads to
WITHOUT_HANDLES = {"proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue"}
WATCH = re.compile(r"^inotify wd:\S+ ino:\S+ sdev:([0-9a-f]+)", re.MULTILINE)

# what a task may have of its own: CRIU dumps mount and network namespaces, and no others
SHARED_NAMESPACES = ("pid", "ipc", "uts", "user", "time")


def of_start(*, refuses_landlock: bool) -> tuple[Obstacle, ...]:
    """Return the obstacles to any live move of a container that come from how it was started."""
    if refuses_landlock:
        return ()
    message = "the container was started without a seccomp filter that refuses Landlock"
    return (obstacle(Reason.LANDLOCK_NOT_REFUSED, message),)


def obstacles_in(census: Census) -> tuple[Obstacle, ...]:
    """Return the obstacles to a move now, the worst first."""
    obstacles = [found for check in CHECKS for found in check(census)]
    return tuple(obstacles[:MOST_OBSTACLES])


def traced(census: Census) -> Iterator[Obstacle]:
    names = {task.pid: task for task in census.tasks}
    for task in census.tasks:
        if task.tracer:
            tracer = names.get(task.tracer)
            who = f"process {task.tracer}" if tracer is None else _name(tracer)
            yield obstacle(Reason.TRACED, f"{_name(task)} is traced by {who}")


def nested_namespaces(census: Census) -> Iterator[Obstacle]:
    """Compare with the namespaces of process 1; a nested container has others."""
    if not census.tasks:
        return
    own = {**census.tasks[0].namespaces, "user": census.user_namespace}
    for task in census.tasks:
        other = [name for name in SHARED_NAMESPACES if _differs(task, own, name)]
        if other:
            kinds = " and ".join(other)
            message = f"{_name(task)} has a {kinds} namespace of its own"
            yield obstacle(Reason.NESTED_NAMESPACE, message)


def _differs(task: Task, own: Mapping[str, int], name: str) -> bool:
    return name in task.namespaces and task.namespaces[name] != own.get(name)


def message_queues(census: Census) -> Iterator[Obstacle]:
    for name in census.queues:
        yield obstacle(Reason.MESSAGE_QUEUE, f"the POSIX message queue /{name} exists")


def dead_leaders(census: Census) -> Iterator[Obstacle]:
    for task in census.tasks:
        if task.dead_leader:
            message = f"the main thread of {_name(task)} has ended, others run on"
            yield obstacle(Reason.MAIN_THREAD_ENDED, message)


def anonymous_files(census: Census) -> Iterator[Obstacle]:
    for task, descriptor in _descriptors(census):
        found = ANONYMOUS.match(descriptor.target)
        if found is None or found[1] in DUMPED_ANONYMOUS:
            continue
        reason = Reason.IO_URING_IN_USE if found[1] == "io_uring" else Reason.UNSUPPORTED_FILE
        yield obstacle(
            reason, f"{_name(task)} has {found[1]} open (descriptor {descriptor.number})"
        )


def secret_memory(census: Census) -> Iterator[Obstacle]:
    for task in census.tasks:
        if any(path.startswith(SECRETMEM) for path in task.mapped):
            message = f"{_name(task)} has secret memory (memfd_secret)"
            yield obstacle(Reason.UNSUPPORTED_FILE, message)


def devices(census: Census) -> Iterator[Obstacle]:
    for task, descriptor in _descriptors(census):
        if descriptor.device is None or descriptor.device[0] in {MEMORY_DEVICES, *TERMINALS}:
            continue
        numbers = "{}:{}".format(*descriptor.device)
        yield obstacle(
            Reason.UNSUPPORTED_FILE,
            f"{_name(task)} has the device {descriptor.target} ({numbers}) open "
            f"(descriptor {descriptor.number})",
        )


def foreign_files(census: Census) -> Iterator[Obstacle]:
    """Find files on a mount of no process: passed in from outside, or on a detached mount tree."""
    for task, descriptor in _descriptors(census):
        if not descriptor.target.startswith("/") or is_memory(descriptor.target):
            continue
        if descriptor.mount and descriptor.mount not in census.mounts:
            yield obstacle(
                Reason.FOREIGN_FILE,
                f"{_name(task)} has {descriptor.target} open (descriptor {descriptor.number}), "
                "which lies on none of the container's mounts",
            )


def stacked_mounts(census: Census) -> Iterator[Obstacle]:
    for mount in census.mounts.values():
        if mount.kind == "overlay" and mount.point not in {"/", *census.runtime_mounts}:
            message = f"an overlay is mounted at {mount.point}"
            yield obstacle(Reason.UNSUPPORTED_MOUNT, message)


def deleted_files(census: Census) -> Iterator[Obstacle]:
    """Find deleted files that are too large for CRIU's images, or still have another name.

    CRIU dumps a memory file like other shared memory, not as a deleted file.
    """
    for task, descriptor in _descriptors(census):
        if descriptor.deleted is None or is_memory(descriptor.target):
            continue
        name = descriptor.target.removesuffix(DELETED)
        what = f"{_name(task)} has the deleted file {name} open (descriptor {descriptor.number})"
        if descriptor.deleted.links:
            yield obstacle(Reason.LINK_LOST, f"{what}, which still has another name")
        elif descriptor.deleted.bytes > GHOST_LIMIT_BYTES:
            yield _deleted_too_large(what, descriptor.deleted)
    for task in census.tasks:
        opened = {fd.deleted.file for fd in task.descriptors if fd.deleted is not None}
        for mapped in task.mapped_files:
            large = mapped.deleted.bytes > GHOST_LIMIT_BYTES and not mapped.deleted.links
            if large and not is_memory(mapped.target) and mapped.deleted.file not in opened:
                name = mapped.target.removesuffix(DELETED)
                what = f"{_name(task)} has the deleted file {name} mapped"
                yield _deleted_too_large(what, mapped.deleted)


def _deleted_too_large(what: str, deleted: Deleted) -> Obstacle:
    too_large = obstacle(
        Reason.DELETED_FILE_TOO_LARGE,
        f"{what}, which has {deleted.bytes} bytes; the limit is {GHOST_LIMIT_BYTES}",
    )
    # the size may change from one census to the next
    return replace(too_large, culprit=what)


def process_directories(census: Census) -> Iterator[Obstacle]:
    """CRIU restores them by a wrong name (`proc/1/` and a stray byte)."""
    for task, descriptor in _descriptors(census):
        if PROCESS_DIRECTORY.match(descriptor.target):
            message = f"{_name(task)} has {descriptor.target} open (descriptor {descriptor.number})"
            yield obstacle(Reason.UNSUPPORTED_FILE, message)


def special_pipes(census: Census) -> Iterator[Obstacle]:
    for task, descriptor in _descriptors(census):
        if descriptor.target.startswith("pipe:") and _flags(descriptor) & os.O_DIRECT:
            yield obstacle(
                Reason.UNSUPPORTED_FILE,
                f"{_name(task)} has a pipe in packet mode open (descriptor {descriptor.number})",
            )


def thread_handles(census: Census) -> Iterator[Obstacle]:
    for task, descriptor in _descriptors(census):
        if descriptor.target == "anon_inode:[pidfd]" and _flags(descriptor) & PIDFD_THREAD:
            yield obstacle(
                Reason.UNSUPPORTED_FILE,
                f"{_name(task)} has a handle of a thread open (descriptor {descriptor.number})",
            )


def unsupported_sockets(census: Census) -> Iterator[Obstacle]:
    for task, descriptor in _descriptors(census):
        if descriptor.socket is None:
            continue
        who = f"{_name(task)} has a socket (descriptor {descriptor.number}) of"
        family, kind, protocol = (
            descriptor.socket.family,
            descriptor.socket.kind,
            descriptor.socket.protocol,
        )
        if family not in FAMILIES:
            message = f"{who} address family {family}"
            yield obstacle(Reason.UNSUPPORTED_SOCKET, message)
        elif family in {AF_INET, AF_INET6} and protocol == IPPROTO_MPTCP:
            yield obstacle(Reason.MPTCP_SOCKET, f"{who} Multipath TCP")
        elif family in {AF_INET, AF_INET6} and not _dumped(kind, protocol):
            yield obstacle(Reason.UNSUPPORTED_SOCKET, f"{who} protocol {protocol}")


def _dumped(kind: int, protocol: int) -> bool:
    return kind == SOCK_RAW or (kind in {SOCK_STREAM, SOCK_DGRAM} and protocol in PROTOCOLS)


def connections_to_outside(census: Census) -> Iterator[Obstacle]:
    """Find Unix sockets whose peer no process of the container has.

    The socket that a server outside got from accept(2) belongs to the client's network namespace. A
    connection that was not accepted yet has no peer inode, and can be dumped.
    """
    owned = {descriptor.socket_inode for _, descriptor in _descriptors(census)}
    for task, descriptor in _descriptors(census):
        peer = census.peers.get(descriptor.socket_inode or 0, 0)
        if peer and peer not in owned:
            message = (
                f"{_name(task)} is connected to a process outside of the container by a Unix "
                f"socket (descriptor {descriptor.number})"
            )
            yield obstacle(Reason.EXTERNAL_CONNECTION, message)


def watches_without_handle(census: Census) -> Iterator[Obstacle]:
    kinds = {mount.device: mount for mount in census.mounts.values()}
    for task, descriptor in _descriptors(census):
        for number in WATCH.findall(descriptor.details):
            mount = kinds.get(_device(int(number, 16)))
            if mount is not None and mount.kind in WITHOUT_HANDLES:
                where = f"{mount.point} (descriptor {descriptor.number})"
                message = f"{_name(task)} watches a file of {where}"
                yield obstacle(Reason.FILE_WATCH, message)
                break


def _device(number: int) -> tuple[int, int]:
    """Split a device number as the kernel stores it: 20 bits of minor number."""
    return number >> 20, number & 0xFFFFF


CHECKS: Sequence[Check] = (
    traced,
    nested_namespaces,
    dead_leaders,
    message_queues,
    stacked_mounts,
    anonymous_files,
    devices,
    foreign_files,
    deleted_files,
    state_too_large,
    process_directories,
    special_pipes,
    thread_handles,
    secret_memory,
    unsupported_sockets,
    connections_to_outside,
    watches_without_handle,
)


def _descriptors(census: Census) -> Iterator[tuple[Task, Descriptor]]:
    return ((task, descriptor) for task in census.tasks for descriptor in task.descriptors)


def _flags(descriptor: Descriptor) -> int:
    found = FLAGS.search(descriptor.details)
    return 0 if found is None else int(found[1], 8)


def _name(task: Task) -> str:
    return f"process {task.pid} ({task.command})"
