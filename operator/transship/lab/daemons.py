"""The lab's daemons: started detached, recorded before they run, stopped by their record.

A daemon starts as a shell that waits for a line on a socket. The starter records its pid and start
time, then lets it exec the program. So a starter that crashes leaves no process without a record.
Pids are reused: a record only counts with the start time that the kernel reports.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from transship.api.reasons import Reason
from transship.common.errors import NotFound, Refused, TransshipError
from transship.lab.nodes import cgroups

# reports its pid, waits for one line (end of file: the starter died), and execs the program
GATE = 'echo >&0; read -r go && exec "$@" </dev/null'
GATE_TIMEOUT_SECONDS = 20.0
# SIGKILL takes effect at once, except on a badly loaded machine
KILL_TIMEOUT_SECONDS = 20.0
# struct ucred: pid, uid, gid
CREDENTIALS = struct.Struct("3i")


class DaemonRecord(BaseModel):
    """Identifies one process, across reuse of pids and reboots; with its command line."""

    model_config = ConfigDict(frozen=True)

    name: str
    pid: int
    start_ticks: int
    boot_id: str
    argv: tuple[str, ...]


def start_daemon(
    state_dir: Path,
    name: str,
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    enter: Sequence[str | Path] = (),
    cgroup: str | None = None,
) -> int:
    """Start a program in a session of its own and return its pid.

    `enter` is a command that runs its arguments in other namespaces (nsenter, unshare); the pid is
    the program's, not that of `enter`. Without `cgroup` it runs in the cgroup of the lab's daemons.
    """
    if daemon_alive(state_dir, name):
        raise Refused(f"starting {name}: it is running already")
    words = [str(word) for word in argv]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        ours.settimeout(GATE_TIMEOUT_SECONDS)
        gate = [*map(str, enter), "/bin/sh", "-c", GATE, name, *words]
        _spawn(gate, stdin=theirs.fileno(), log=_log(state_dir, name), env=env)
        theirs.close()
        pid = _pid_at_gate(ours, name)
        cgroups.join(cgroup or cgroups.daemon_cgroup(state_dir), pid=pid)
        _write(state_dir, _record(name, pid, words))
        ours.sendall(b"go\n")
    return pid


def stop_daemon(state_dir: Path, name: str, *, grace_seconds: float = 5.0) -> None:
    """Send SIGTERM, after the grace period SIGKILL, and wait for the end. It need not run."""
    with _pidfd(state_dir, name) as fd:
        if fd is None:
            return
        _signal(fd, signal.SIGTERM)
        if not _ended(fd, grace_seconds):
            _kill(fd, name)


def kill_daemon(state_dir: Path, name: str) -> None:
    """Send SIGKILL and wait for the end. It need not run."""
    with _pidfd(state_dir, name) as fd:
        if fd is not None:
            _kill(fd, name)


def signal_daemon(state_dir: Path, name: str, number: signal.Signals) -> None:
    """Send a signal. Raises NotFound if it does not run."""
    with _pidfd(state_dir, name) as fd:
        if fd is None:
            raise NotFound(f"finding {name}: it is not running", reason=Reason.DAEMON_NOT_RUNNING)
        _signal(fd, number)


def daemon_alive(state_dir: Path, name: str) -> bool:
    record = find_record(state_dir, name)
    return record is not None and is_running(record)


def daemon_pid(state_dir: Path, name: str) -> int:
    """The pid of a running daemon. Raises NotFound if it does not run."""
    record = find_record(state_dir, name)
    if record is None or not is_running(record):
        raise NotFound(f"finding {name}: it is not running", reason=Reason.DAEMON_NOT_RUNNING)
    return record.pid


def find_record(state_dir: Path, name: str) -> DaemonRecord | None:
    try:
        return DaemonRecord.model_validate_json(_record_path(state_dir, name).read_text())
    except FileNotFoundError:
        return None
    except ValidationError as e:
        raise TransshipError(f"reading the record of {name}: it is damaged") from e


def daemon_names(state_dir: Path) -> list[str]:
    return sorted(path.stem for path in (state_dir / "daemons").glob("*.json"))


def log_path(state_dir: Path, name: str) -> Path:
    return state_dir / "logs" / f"{name}.log"


def is_running(record: DaemonRecord) -> bool:
    """Whether exactly this process runs. A zombie does not."""
    if record.boot_id != boot_id():
        return False
    status = _status(record.pid)
    return status is not None and status == (record.start_ticks, False)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _spawn(argv: list[str], *, stdin: int, log: Path, env: Mapping[str, str] | None) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        os.posix_spawn(
            argv[0],
            argv,
            os.environ if env is None else env,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, stdin, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
            ],
            setsid=True,
            # Python ignores these signals, and exec keeps ignored signals ignored
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
        )
    finally:
        os.close(output)


def _pid_at_gate(ours: socket.socket, name: str) -> int:
    """The waiting shell's pid, which the kernel translates into our pid namespace."""
    try:
        data, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(CREDENTIALS.size))
    except TimeoutError as e:
        raise TransshipError(f"starting {name}: not ready in {GATE_TIMEOUT_SECONDS:g} s") from e
    for level, kind, payload in ancillary:
        if data and (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            pid: int = CREDENTIALS.unpack(payload)[0]
            return pid
    raise TransshipError(f"starting {name}: it ended at once", hint=f"see logs/{name}.log")


def _record(name: str, pid: int, argv: Sequence[str]) -> DaemonRecord:
    status = _status(pid)
    if status is None:
        raise TransshipError(f"starting {name}: it ended at once", hint=f"see logs/{name}.log")
    return DaemonRecord(
        name=name, pid=pid, start_ticks=status[0], boot_id=boot_id(), argv=tuple(argv)
    )


def _write(state_dir: Path, record: DaemonRecord) -> None:
    path = _record_path(state_dir, record.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(record.model_dump_json(indent=2) + "\n")
    draft.replace(path)


def _status(pid: int) -> tuple[int, bool] | None:
    """Start time in clock ticks since boot, and whether it is a zombie. None without a process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # the process name before the last bracket may contain anything
    fields = text.rpartition(")")[2].split()
    return int(fields[19]), fields[0] in "ZX"


@contextlib.contextmanager
def _pidfd(state_dir: Path, name: str) -> Iterator[int | None]:
    """A pidfd of the recorded process, or None. The check after opening excludes a reused pid."""
    record = find_record(state_dir, name)
    if record is None:
        yield None
        return
    try:
        fd = os.pidfd_open(record.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield fd if is_running(record) else None
    finally:
        os.close(fd)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(record.pid, os.WNOHANG)


def _kill(fd: int, name: str) -> None:
    _signal(fd, signal.SIGKILL)
    if not _ended(fd, KILL_TIMEOUT_SECONDS):
        raise TransshipError(
            f"killing {name}: still there after {KILL_TIMEOUT_SECONDS:g} s",
            reason=Reason.UNKILLABLE,
        )


def _signal(fd: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(fd, number)


def _ended(fd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _log(state_dir: Path, name: str) -> Path:
    path = log_path(state_dir, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _record_path(state_dir: Path, name: str) -> Path:
    return state_dir / "daemons" / f"{name}.json"


def program(name: str) -> str:
    """The path of a program of the machine. Raises NotFound."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise NotFound(f"finding the program {name}", hint="install util-linux")
    return path
