"""The errors of CRIU 4.2 for what it cannot dump, and what they mean. Pure.

The patterns are from the messages of CRIU's dump (criu/*.c); those that a container can cause are
from real logs. The first rule that matches counts, so specific rules come before general ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from transship.api.reasons import Reason


@dataclass(frozen=True)
class Rule:
    """What a line of the log means; `message` may use the named groups of the pattern."""

    pattern: str
    reason: Reason
    message: str


_TASKS = (
    # a debugger: CRIU reports each task that it may not seize as one that has just ended
    Rule(
        r"zombie (?P<pid>\d+) \(comm (?P<what>[^)]*)\) found while seizing",
        Reason.TRACED,
        "the task {pid} ({what}) cannot be stopped: it is being traced, or has just ended",
    ),
    Rule(
        r"Zombies? (?:with|thread)",
        Reason.MAIN_THREAD_ENDED,
        "the main thread of a process has ended, others run on",
    ),
    Rule(
        r"Individually stopped threads not supported",
        Reason.THREAD_STOPPED,
        "single threads of a process are stopped, others are not",
    ),
    Rule(
        r"A session leader of (?:zombie process )?(?P<pid>\d+)\(\d+\) is outside",
        Reason.FOREIGN_PROCESS,
        "the process {pid} was put into the container from outside",
    ),
    Rule(
        r"PID (?P<pid>\d+) has uprobes vma",
        Reason.TRACED,
        "the process {pid} is probed by the kernel (uprobes)",
    ),
    Rule(
        r"Unable to convert uid or gid|doesn't belong to the target user namespace",
        Reason.NESTED_NAMESPACE,
        "a process has made a user namespace of its own",
    ),
    Rule(
        r"(?:Can't )?dump nested (?P<what>\w+) namespace|Nested (?P<kind>\w+) namespaces? ",
        Reason.NESTED_NAMESPACE,
        "a process has made a {what}{kind} namespace of its own",
    ),
)

_FILES = (
    Rule(
        r"Unknown shit \d+ \(anon_inode:\[io_uring\]\)|\(\[io_uring\]\)|anon_inode:\[io_uring\]",
        Reason.IO_URING_IN_USE,
        "a process uses io_uring",
    ),
    Rule(
        r"Unknown shit \d+ \((?P<what>.*)\)$"
        r"|Can't dump file \d+ of that type \[\d+\] \((?:anon )?(?P<more>.*)\)",
        Reason.UNSUPPORTED_FILE,
        "a process has {what}{more} open",
    ),
    Rule(r"PIDFD_THREAD flag", Reason.UNSUPPORTED_FILE, "a process has a handle of a thread open"),
    Rule(
        r"pidfd pid (?P<pid>\d+) is not a part of process tree",
        Reason.FOREIGN_PROCESS,
        "a process has a handle of a process outside of the container open",
    ),
    Rule(
        r"packetized mode for pipes",
        Reason.UNSUPPORTED_FILE,
        "a process has a pipe in packet mode (O_DIRECT) open",
    ),
    Rule(
        r"dumping BPF map type (?P<what>\d+)",
        Reason.UNSUPPORTED_FILE,
        "a process has a BPF map of type {what} open",
    ),
    Rule(
        r"Can't handle non-regular mapping on (?P<pid>\d+)'s|Unsupported mapping found",
        Reason.UNSUPPORTED_FILE,
        "a process {pid} has a device mapped into its memory",
    ),
    Rule(
        r"tun: Net namespace is required|tun: Can't dump|tun: No ",
        Reason.UNSUPPORTED_FILE,
        "a process has a network tunnel (/dev/net/tun) open",
    ),
    Rule(
        r"Can't dump that handle|Can't find suitable path for handle",
        Reason.FILE_WATCH,
        "a process watches a file (inotify, fanotify) that CRIU cannot find by its handle",
    ),
    Rule(
        r"Some file locks are hold by dumping tasks|Unresolved lock found",
        Reason.FILE_LOCK,
        "a process holds a file lock together with one outside of the container",
    ),
    Rule(
        r"Can't lookup mount=\d+ for fd=-?\d+ path=(?P<path>.*)",
        Reason.FOREIGN_FILE,
        "a process has {path} open, which lies on none of the container's mounts",
    ),
    Rule(
        r"Open files on overmounted mounts.*path=(?P<path>.*)|Unaccessible path opened",
        Reason.FOREIGN_FILE,
        "a process has a file {path} open over which something else is mounted",
    ),
    Rule(
        r"Found dangling tty|Found slave peer index|ctty inheritance detected",
        Reason.FOREIGN_FILE,
        "a process uses a terminal that is not the container's",
    ),
    Rule(
        r"queued data overflow",
        Reason.TERMINAL_FULL,
        "a terminal holds more output than CRIU takes along",
    ),
)

_SOCKETS = (
    Rule(
        r"Unsupported proto 262 ", Reason.MPTCP_SOCKET, "a process has a Multipath TCP socket open"
    ),
    Rule(
        r"Unsupported (?:proto|socket family:|socket type:|type) ?\(?(?P<what>\d+)"
        r"|Unknown socket collected \(family (?P<family>\d+)\)"
        r"|Can't dump (?P<kind>\d+) inet socket",
        Reason.UNSUPPORTED_SOCKET,
        "a process has a socket of a kind (number {what}{family}{kind}) that CRIU does not know "
        "open",
    ),
    Rule(
        r"Can't dump corked dgram socket",
        Reason.UNSUPPORTED_SOCKET,
        "a process holds back data in a UDP socket (UDP_CORK)",
    ),
    Rule(
        r"Multiple MC membership|Unknown mc membership|more than 32 groups|to groups but not to",
        Reason.UNSUPPORTED_SOCKET,
        "a process has a packet or netlink socket with more groups than CRIU takes along",
    ),
    Rule(
        r"Unable to dump a socket from an external network namespace"
        r"|Sockets \(family \d+ proto \d+\) are not collected",
        Reason.FOREIGN_FILE,
        "a process has a socket of another network open, handed in from outside",
    ),
    Rule(
        r"netlink: The socket has data to read",
        Reason.NETLINK_UNREAD,
        "a netlink socket holds messages that the program has not read",
    ),
    Rule(
        r"External socket is used|name-less external socket|External socket found in image"
        r"|dump half of stream unix|with(?:out| unreachable) peer",
        Reason.EXTERNAL_CONNECTION,
        "a process has a Unix socket connected to a process outside of the container",
    ),
    Rule(
        r"In-flight connection|in-flight socket|Dangling connection",
        Reason.CONNECTION_IN_FLIGHT,
        "a connection was just being made",
    ),
    Rule(
        r"Control messages in queue|More than 1 SCM|Can't find sender for",
        Reason.DESCRIPTOR_IN_FLIGHT,
        "a descriptor is under way from one process to another",
    ),
)

_MOUNTS = (
    Rule(r"mqueue isn't empty", Reason.MESSAGE_QUEUE, "the container has a POSIX message queue"),
    Rule(
        r"Unable to mount (?P<source>\S+) "
        r"|FS mnt (?P<what>\S+) .* unsupported id"
        r"|Mount \d+:(?P<point>\S+) is autodetected external"
        r"|\d+:(?P<root>\S+) doesn't have a proper root mount"
        r"|(?P<kind>\S+) isn't empty"
        r"|Unable to dump a file system for \d+:(?P<path>\S+)"
        r"|Mount \d+ (?P<shared>\S+) \(master_id",
        Reason.UNSUPPORTED_MOUNT,
        "the container has mounted something that CRIU cannot dump: "
        "{source}{what}{point}{root}{kind}{path}{shared}",
    ),
    Rule(
        r"Unsupported link \d+ \(type \d+ kind (?P<what>[^)]*)\)",
        Reason.UNSUPPORTED_NETWORK_DEVICE,
        "the container has made a network device of the kind {what}",
    ),
)

UNSUPPORTED = (*_TASKS, *_FILES, *_SOCKETS, *_MOUNTS)
