"""Finds the cause of a failure in CRIU's log, and says what the user can do. Pure.

CRIU has no error codes, so this is the one place that reads error text. A line that matches no rule
is quoted as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from transship.api.reasons import Reason
from transship.criu.log_rules import UNSUPPORTED, Rule

TAIL_LINES = 20
TAIL_LIMIT_BYTES = 4096
LOG_READ_LIMIT_BYTES = 1 << 20

# at a low log level there is no time before it
_ERROR = re.compile(r"^(?:\([\d.]+\)\s+)?(?:\s*\d+: )?Error \([^)]*\): (?P<text>.*)$")

# The last lines of every failure, whatever its cause.
_GENERIC = re.compile(r"(?:Restoring|Dumping|Pre-dumping) FAILED|exited, status=|script ret code")

# CRIU tries to raise its own limit of open files and goes on without: in every log of a node
# without CAP_SYS_RESOURCE.
_HARMLESS = re.compile(r"Can't setup RLIMIT_NOFILE for self|Will restore .* with|seccomp_metadata")


@dataclass(frozen=True)
class Diagnosis:
    """The cause of a failure; `tail` is the end of CRIU's log."""

    reason: Reason
    message: str
    hint: str
    tail: str = ""


_NODE = (
    Rule(
        r"Can't get rlimit.*Operation not permitted|rlimit.*EPERM",
        Reason.LIMITS_UNREADABLE,
        "the agent may not read the limits of a process of another user",
    ),
    Rule(
        r"Can't dump ghost file (?P<path>.*) of (?P<size>\d+) size",
        Reason.DELETED_FILE_TOO_LARGE,
        "a process has the deleted file {path} open, which has {size} bytes",
    ),
    Rule(
        r"Can't (?:create link remap for|link remap to|link) (?P<path>\S+)",
        Reason.LINK_LOST,
        "the open file {path} has no name any more, and none could be made for it",
    ),
    Rule(
        r"(?:FPU|CPU) (?:Feature|feature|capabilities|instruction capabilities) ?(?P<what>.*)",
        Reason.CPU_FEATURES_MISSING,
        "the processors differ: {what}",
    ),
    Rule(
        r"vDSO isn't provided|had vdso, restorer doesn't|Failed to map vdso|Can't fixup vdso",
        Reason.VDSO_DIFFERS,
        "the kernels' vDSOs do not fit together",
    ),
    Rule(
        r"Can't fork for (?P<pid>\d+): File exists|Pid \d+ do not match expected (?P<number>\d+)",
        Reason.PID_IN_USE,
        "the process id {pid}{number} is taken",
    ),
    Rule(
        r"Can't bind inet socket.*Cannot assign requested address",
        Reason.ADDRESS_MISSING,
        "a socket's address is not on the target",
    ),
    Rule(
        r"TCP.?repair|repair mode|Can't (?:bind|connect) inet socket|inet: .*(?:seq|queue)",
        Reason.CONNECTION_NOT_RESTORED,
        "a TCP connection could not be put together again: {line}",
    ),
    Rule(
        r"File (?P<path>.*) has bad (?:size|mode|build-ID).*",
        Reason.FILES_DIFFER,
        "the file {path} is not as it was at the dump",
    ),
    Rule(
        r"Can't open file (?P<path>.*) on restore: (?P<why>.*)"
        r"|Can't open file (?P<name>\S+): No such.*",
        Reason.FILES_DIFFER,
        "the file {path}{name} cannot be opened on the target: {why}",
    ),
    Rule(
        r"No space left on device|Disk quota exceeded",
        Reason.OUT_OF_SPACE,
        "there is no room for the images",
    ),
    Rule(
        r"Cannot allocate memory|Out of memory",
        Reason.INSUFFICIENT_MEMORY,
        "the memory did not suffice: {line}",
    ),
    Rule(
        r"Unable to freeze cgroup|Timeout reached",
        Reason.FREEZE_TIMED_OUT,
        "some task of the container does not stop",
    ),
)

RULES = (*UNSUPPORTED, *_NODE)


def diagnose(log: str, *, otherwise: Reason) -> Diagnosis:
    """Find the cause in the log of a dump or restore; `otherwise` is the reason without one."""
    errors = list(_errors(log))
    errors.sort(key=lambda line: _GENERIC.search(line) is not None)
    tail = log_tail(log)
    for line in errors:
        for rule in RULES:
            if (match := re.search(rule.pattern, line)) is not None:
                message = _fill(rule.message, match, line=line)
                return Diagnosis(rule.reason, message, rule.reason.hint, tail)
    error = errors[0] if errors else "its log has no error"
    return Diagnosis(otherwise, f"CRIU failed: {error}", otherwise.hint, tail)


def log_tail(log: str) -> str:
    """Return the end of a log, short enough for a status."""
    lines = log.rstrip().splitlines()[-TAIL_LINES:]
    return "\n".join(lines)[-TAIL_LIMIT_BYTES:]


def read_log(path: Path) -> str:
    """Read the end of a log; empty when CRIU has written none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_READ_LIMIT_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _errors(log: str) -> Iterator[str]:
    for line in log.splitlines():
        match = _ERROR.match(line)
        if match is not None and not _HARMLESS.search(match["text"]):
            yield match["text"].strip()


def _fill(message: str, match: re.Match[str], *, line: str) -> str:
    groups = {name: value or "" for name, value in match.groupdict().items()}
    return message.format(line=line, **groups)
