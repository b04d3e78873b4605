from __future__ import annotations

import re
from pathlib import Path

import pytest

from transship.api.reasons import Reason
from transship.runtime import criu_log
from transship.runtime.criu_log import RULES, diagnose, log_tail, read_log

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
    "the page stream": (
        "Error (criu/page-xfer.c:148): page-xfer: Can't send PSI 2 to server: Broken pipe",
        Reason.PAGE_STREAM_BROKEN,
        "Broken pipe",
    ),
    "the freezer": (
        "Error (criu/seize.c:635): Unable to freeze cgroup /sys/fs/cgroup/freezer/x",
        Reason.FREEZE_TIMED_OUT,
        "does not stop",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_known_failure_is_explained(case: str) -> None:
    line, reason, words = CASES[case]
    found = diagnose(f"(00.01) Info\n(00.051616) {line}\n", otherwise=Reason.DUMP_FAILED)
    assert found.reason is reason
    assert words in found.message
    assert found.hint == reason.hint


def test_a_line_of_a_restored_process_counts_too() -> None:
    line = "(00.123456)     17: Error (criu/cr-restore.c:1230): Can't fork for 17: File exists"
    assert diagnose(line, otherwise=Reason.RESTORE_FAILED).reason is Reason.PID_IN_USE


def test_the_cause_that_is_named_first_is_the_cause() -> None:
    log = "\n".join(
        f"(00.1) {CASES[case][0]}" for case in ("multipath TCP", "the page stream", "no memory")
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
    assert "no word" in diagnose("", otherwise=Reason.RESTORE_FAILED).message


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
def test_every_message_is_filled_by_its_own_pattern(rule: criu_log.Rule) -> None:
    names = {name for name in re.findall(r"{(\w+)}", rule.message) if name != "line"}
    assert names <= set(re.compile(rule.pattern).groupindex)
