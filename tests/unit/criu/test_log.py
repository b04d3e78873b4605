from __future__ import annotations

import re
from pathlib import Path

import pytest

from transship.api.reasons import Reason
from transship.criu import log as criu_log
from transship.criu.log import RULES, diagnose, log_tail, read_log
from transship.criu.log_rules import Rule

CASES = {
    "io_uring": (
        "Error (criu/files-ext.c:98): Unknown shit 600 (anon_inode:[io_uring])",
        Reason.IO_URING_IN_USE,
        "io_uring",
    ),
    "another anonymous inode": (
        "Error (criu/proc_parse.c:502): Unknown shit 600 (anon_inode:[perf_event])",
        Reason.UNSUPPORTED_FILE,
        "anon_inode:[perf_event]",
    ),
    "a device": (
        "Error (criu/files-ext.c:98): Can't dump file 5 of that type [20660] (chr 10:200)",
        Reason.UNSUPPORTED_FILE,
        "chr 10:200",
    ),
    "multipath TCP": (
        "Error (criu/sk-inet.c:137): inet: Unsupported proto 262 for socket 1fa3",
        Reason.MPTCP_SOCKET,
        "Multipath",
    ),
    "SCTP": (
        "Error (criu/sk-inet.c:137): inet: Unsupported proto 132 for socket 1fa3",
        Reason.UNSUPPORTED_SOCKET,
        "132",
    ),
    "an inotify watch": (
        "Error (criu/fsnotify.c:284): fsnotify: \tCan't dump that handle",
        Reason.FILE_WATCH,
        "watches",
    ),
    "a file lock": (
        "Error (criu/file-lock.c:110): Some file locks are hold by dumping tasks! You can try",
        Reason.FILE_LOCK,
        "file lock",
    ),
    "a Unix socket to the node": (
        "Error (criu/sk-unix.c:874): unix: External socket is used. Consider using --ext-unix-sk",
        Reason.EXTERNAL_CONNECTION,
        "Unix socket",
    ),
    "a file of the node": (
        "Error (criu/files-reg.c:1790): Can't lookup mount=82 for fd=0 path=/var/log/x",
        Reason.FOREIGN_FILE,
        "/var/log/x",
    ),
    "a nested namespace": (
        "Error (criu/namespaces.c:460): Can't dump nested pid namespace for 12",
        Reason.NESTED_NAMESPACE,
        "pid namespace",
    ),
    "limits": (
        "Error (criu/cr-dump.c:388): Can't get rlimit 0: Operation not permitted",
        Reason.LIMITS_UNREADABLE,
        "limits",
    ),
    "a large deleted file": (
        "Error (criu/files-reg.c:1031): Can't dump ghost file /tmp/big of 536870912 size,"
        " increase limit",
        Reason.DELETED_FILE_TOO_LARGE,
        "/tmp/big",
    ),
    "a hard link": (
        "Error (criu/files-reg.c:2258): Can't link app/link_remap.26 -> app/x: No such file",
        Reason.LINK_LOST,
        "app/link_remap.26",
    ),
    "the processor": (
        "Error (criu/arch/x86/cpu.c:247): cpu: FPU feature required by image (fpu) is not there",
        Reason.CPU_FEATURES_MISSING,
        "required by image",
    ),
    "the vDSO": (
        "Error (criu/pie/restorer.c:1498): Task had vdso, restorer doesn't",
        Reason.VDSO_DIFFERS,
        "vDSO",
    ),
    "a process id": (
        "Error (criu/cr-restore.c:1230): Can't fork for 17: File exists",
        Reason.PID_IN_USE,
        "17",
    ),
    "an address": (
        "Error (criu/sk-inet.c:1059): inet: Can't bind inet socket (id 5): "
        "Cannot assign requested address",
        Reason.ADDRESS_MISSING,
        "address",
    ),
    "a connection": (
        "Error (criu/sk-inet.c:1085): inet: Can't connect inet socket back: Connection refused",
        Reason.CONNECTION_NOT_RESTORED,
        "Connection refused",
    ),
    "a file that differs": (
        "Error (criu/files-reg.c:2175): File usr/lib/x.so has bad size 5 (expect 6)",
        Reason.FILES_DIFFER,
        "usr/lib/x.so",
    ),
    "a file that is missing": (
        "Error (criu/files-reg.c:2353): Can't open file data/x on restore: No such file",
        Reason.FILES_DIFFER,
        "data/x",
    ),
    "no room": (
        "Error (criu/image.c:300): Can't write pages: No space left on device",
        Reason.OUT_OF_SPACE,
        "room",
    ),
    "no memory": (
        "Error (criu/pie/restorer.c:900): Can't map: Cannot allocate memory",
        Reason.INSUFFICIENT_MEMORY,
        "memory",
    ),
    "the freezer": (
        "Error (criu/seize.c:635): Unable to freeze cgroup /sys/fs/cgroup/freezer/x",
        Reason.FREEZE_TIMED_OUT,
        "does not stop",
    ),
}


# Lines of dumps and restores of containers that had these things (CRIU 4.2.1).
SEEN = {
    "a traced task": (
        "Error (criu/seize.c:335): zombie 8424 (comm sleep) found while seizing",
        Reason.TRACED,
        "8424 (sleep)",
    ),
    "a main thread that has ended": (
        "Error (criu/seize.c:882): Zombies with threads are not supported",
        Reason.MAIN_THREAD_ENDED,
        "main thread",
    ),
    "a handle of a thread": (
        "Error (criu/pidfd.c:88): pidfd: PIDFD_THREAD flag is currently not supported",
        Reason.UNSUPPORTED_FILE,
        "a handle of a thread",
    ),
    "a pipe of packets": (
        "Error (criu/pipes.c:490): The packetized mode for pipes is not supported yet",
        Reason.UNSUPPORTED_FILE,
        "packet mode",
    ),
    "secret memory": (
        "Error (criu/proc_parse.c:502): Unknown shit 100600 (/secretmem (deleted))",
        Reason.UNSUPPORTED_FILE,
        "has /secretmem (deleted) open",
    ),
    "a Landlock ruleset": (
        "Error (criu/files-ext.c:94): Can't dump file 4 of that type [600] "
        "(anon anon_inode:[landlock-ruleset])",
        Reason.UNSUPPORTED_FILE,
        "has anon_inode:[landlock-ruleset] open",
    ),
    "the listener of a seccomp filter": (
        "Error (criu/files-ext.c:94): Can't dump file 4 of that type [600] "
        "(anon anon_inode:seccomp notify)",
        Reason.UNSUPPORTED_FILE,
        "seccomp notify",
    ),
    "a network tunnel": (
        "Error (criu/tun.c:306): tun: Net namespace is required to dump tun link",
        Reason.UNSUPPORTED_FILE,
        "/dev/net/tun",
    ),
    "a corked UDP socket": (
        "Error (criu/sk-inet.c:504): inet: Can't dump corked dgram socket 15c30e",
        Reason.UNSUPPORTED_SOCKET,
        "UDP_CORK",
    ),
    "netlink messages": (
        "Error (criu/sk-netlink.c:77): netlink: The socket has data to read",
        Reason.NETLINK_UNREAD,
        "has not read",
    ),
    "a message queue": (
        "Error (criu/filesystems.c:650): mqueue isn't empty",
        Reason.MESSAGE_QUEUE,
        "message queue",
    ),
    "a user namespace": (
        "Error (criu/namespaces.c:931): Unable to convert uid or gid",
        Reason.NESTED_NAMESPACE,
        "user namespace",
    ),
    "a time namespace": (
        "Error (criu/namespaces.c:739): Can't dump nested time namespace for 13591",
        Reason.NESTED_NAMESPACE,
        "time namespace",
    ),
    "an overlay in the container": (
        "Error (criu/mount.c:2236): mnt: Unable to mount x /tmp/.criu.mntns.ZfiL7m/mnt-0000000534 "
        "(id=534): No such file or directory",
        Reason.UNSUPPORTED_MOUNT,
        "cannot dump: x",
    ),
    "a link that was lost": (
        "Error (criu/files-reg.c:2258): Can't link tmp/link_remap.17 -> tmp/a: "
        "No such file or directory",
        Reason.LINK_LOST,
        "tmp/link_remap.17",
    ),
    "a directory of /proc": (
        "Error (criu/files-reg.c:2353): Can't open file proc/6/\x10 on restore: "
        "No such file or directory",
        Reason.FILES_DIFFER,
        "proc/6/",
    ),
}

# What its source says, and a container cannot be brought to in the lab.
WRITTEN = {
    "an unknown family": (
        "Error (criu/sockets.c:767): sockets: BUG! Unknown socket collected (family 29)",
        Reason.UNSUPPORTED_SOCKET,
        "29",
    ),
    "a sequence of packets": (
        "Error (criu/sk-inet.c:167): inet: Can't dump 5 inet socket 1f3. Only stream",
        Reason.UNSUPPORTED_SOCKET,
        "number 5",
    ),
    "half of a connection": (
        "Error (criu/sk-unix.c:881): unix: Can't dump half of stream unix connection. name: /run/x",
        Reason.EXTERNAL_CONNECTION,
        "outside",
    ),
    "a socket of another network": (
        "Error (criu/net.c:3718): net: Unable to dump a socket from an external network namespace",
        Reason.FOREIGN_FILE,
        "another network",
    ),
    "a process from outside": (
        "Error (criu/cr-dump.c:1681): A session leader of 812(17) is outside of its pid namespace",
        Reason.FOREIGN_PROCESS,
        "812",
    ),
    "a handle of a process outside": (
        "Error (criu/pidfd.c:97): pidfd: pidfd pid 812 is not a part of process tree..",
        Reason.FOREIGN_PROCESS,
        "outside",
    ),
    "single stopped threads": (
        "Error (criu/seize.c:952): Individually stopped threads not supported",
        Reason.THREAD_STOPPED,
        "single threads",
    ),
    "a device in memory": (
        "Error (criu/proc_parse.c:663): Can't handle non-regular mapping on 812's map 7f00",
        Reason.UNSUPPORTED_FILE,
        "812",
    ),
    "descriptors under way": (
        "Error (criu/sk-queue.c:144): Control messages in queue, not supported",
        Reason.DESCRIPTOR_IN_FLIGHT,
        "under way",
    ),
    "a full terminal": (
        "Error (criu/tty.c:2140): tty: The tty (pts 0x5) queued data overflow 1024 bytes limit",
        Reason.TERMINAL_FULL,
        "more output",
    ),
    "a file that is covered": (
        "Error (criu/files-reg.c:1796): Open files on overmounted mounts are not supported yet; "
        "mount=5 fd=3 path=/a",
        Reason.FOREIGN_FILE,
        "/a",
    ),
    "an unknown file system": (
        "Error (criu/mount.c:724): mnt: FS mnt ./x dev 0x3c root / unsupported id 0",
        Reason.UNSUPPORTED_MOUNT,
        "./x",
    ),
    "a network device": (
        "Error (criu/net.c:650): net: Unsupported link 3 (type 1 kind vxlan)",
        Reason.UNSUPPORTED_NETWORK_DEVICE,
        "vxlan",
    ),
    "probed code": (
        "Error (criu/proc_parse.c:614): PID 812 has uprobes vma. Consider using --allow-uprobes.",
        Reason.TRACED,
        "812",
    ),
}
KNOWN = {**CASES, **SEEN, **WRITTEN}


@pytest.mark.parametrize("case", KNOWN)
def test_a_known_failure_is_explained(case: str) -> None:
    line, reason, words = KNOWN[case]
    found = diagnose(f"(00.01) Info\n(00.051616) {line}\n", otherwise=Reason.DUMP_FAILED)
    assert found.reason is reason
    assert words in found.message
    assert found.hint == reason.hint


def test_a_line_of_a_restored_process_counts_too() -> None:
    line = "(00.123456)     17: Error (criu/cr-restore.c:1230): Can't fork for 17: File exists"
    assert diagnose(line, otherwise=Reason.RESTORE_FAILED).reason is Reason.PID_IN_USE


def test_the_cause_that_is_named_first_is_the_cause() -> None:
    log = "\n".join(
        f"(00.1) {CASES[case][0]}" for case in ("multipath TCP", "no room", "no memory")
    )
    assert diagnose(log, otherwise=Reason.DUMP_FAILED).reason is Reason.MPTCP_SOCKET


def test_an_unknown_failure_is_quoted() -> None:
    log = (
        "(00.1) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Op\n"
        "(00.2) Error (criu/cr-dump.c:1975): Dumping FAILED.\n"
        "(00.3) Error (criu/x.c:1): Something new"
    )
    found = diagnose(log, otherwise=Reason.DUMP_FAILED)
    assert found.reason is Reason.DUMP_FAILED
    assert found.message == "CRIU failed: Something new"


def test_what_is_no_error_is_not_read() -> None:
    log = "(00.1) Warn  (criu/x.c:1): io_uring\n(00.2) [io_uring] No space left on device"
    assert diagnose(log, otherwise=Reason.DUMP_FAILED).reason is Reason.DUMP_FAILED


def test_an_empty_log_is_said_to_be_empty() -> None:
    assert "no error" in diagnose("", otherwise=Reason.RESTORE_FAILED).message


def test_the_tail_is_short() -> None:
    log = "\n".join(f"line {number} {'x' * 300}" for number in range(1000))
    assert len(log_tail(log)) <= criu_log.TAIL_LIMIT_BYTES
    assert log_tail(log).endswith("x" * 300)


def test_a_missing_log_reads_as_nothing(tmp_path: Path) -> None:
    assert read_log(tmp_path / "none") == ""


def test_of_a_huge_log_the_end_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a" * criu_log.LOG_READ_LIMIT_BYTES + b"end")
    assert len(read_log(path)) == criu_log.LOG_READ_LIMIT_BYTES
    assert read_log(path).endswith("end")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.reason)
def test_every_message_is_filled_by_its_own_pattern(rule: Rule) -> None:
    names = {name for name in re.findall(r"{(\w+)}", rule.message) if name != "line"}
    assert names <= set(re.compile(rule.pattern).groupindex)
