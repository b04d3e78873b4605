"""conmon: the process that supervises each container, and runs on without the agent.

It holds the other ends of the container's pipes, writes its log, and writes its exit code to a
file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError

from transship.api.reasons import Reason
from transship.common.errors import DeadlineExceeded, TransshipError
from transship.common.processes import run
from transship.linux import cgroups, processes
from transship.runtime import plain_process
from transship.runtime.layout import Layout

START_TIMEOUT_SECONDS = 60.0
LOG_BYTES = 64 << 20
"""At this size conmon truncates the log; it keeps no older file."""


@dataclass(frozen=True)
class Console:
    """How the container's standard streams are connected."""

    terminal: bool = False
    stdin: bool = False


class _Answer(BaseModel):
    """What conmon writes to its sync pipe: the container's pid, or -1 and runc's message."""

    data: int
    message: str = ""


def arguments(
    layout: Layout,
    *,
    container_id: str,
    console: Console,
    extra: Sequence[str] = (),
    before: Sequence[str] = (),
) -> list[str]:
    """Build conmon's command line, for `runc create`, or with `--restore IMAGES ...` in `extra`.

    `before` is a command that starts runc, such as nsenter.
    """
    runtime, *words_before = (*before, _runc())
    words = [
        "conmon", "--api-version", "1", "-c", container_id, "-u", container_id, "-n", container_id,
        "-r", _path(runtime), *(f"--runtime-arg={word}" for word in words_before),
        f"--runtime-arg=--root={layout.runc_root}",
        "-b", layout.bundle(container_id), "-p", layout.pidfile(container_id),
        "-P", layout.conmon_pidfile(container_id),
        "-l", f"k8s-file:{layout.log(container_id)}", "--log-size-max", LOG_BYTES,
        "--exit-dir", layout.exits, "--socket-dir-path", layout.sockets,
        "-0", layout.persist(container_id), "--full-attach",
    ]  # fmt: skip
    flags = [flag for flag, on in (("-t", console.terminal), ("-i", console.stdin)) if on]
    return [*map(str, words), *flags, *extra]


def _runc() -> str:
    """Conmon needs a path; a service's PATH may lack /usr/sbin."""
    return shutil.which("runc") or "/usr/sbin/runc"


def _path(program: str) -> str:
    return shutil.which(program) or program


def make_directories(layout: Layout, *, container_id: str) -> None:
    """Create conmon's directories; without the one for sockets it may fail with exit code 0."""
    for path in (layout.exits, layout.sockets, layout.runc_root, layout.persist(container_id)):
        path.mkdir(parents=True, exist_ok=True)


async def launch(
    layout: Layout,
    *,
    container_id: str,
    console: Console,
    extra: Sequence[str] = (),
    before: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    answer_seconds: float | None = START_TIMEOUT_SECONDS,
) -> int:
    """Start conmon, which creates or restores the container; return the container's pid.

    conmon forks into a session of its own at once, and reports the result on its sync pipe.
    `environment` is added to the plain environment of conmon and runc.
    """
    make_directories(layout, container_id=container_id)
    forget(layout, container_id=container_id)
    words = arguments(
        layout, container_id=container_id, console=console, extra=extra, before=before
    )
    receiving, sending = os.pipe()
    try:
        added = {**(environment or {}), "_OCI_SYNCPIPE": str(sending)}
        await run(
            plain_process.words(words),
            env=plain_process.environment(added),
            pass_fds=[sending],
            timeout_seconds=START_TIMEOUT_SECONDS,
        )
        await asyncio.to_thread(_leave_agent, layout, container_id=container_id)
    except BaseException:
        os.close(receiving)
        raise
    finally:
        os.close(sending)
    return _pid_in(await _last_line(receiving, timeout_seconds=answer_seconds))


async def _last_line(descriptor: int, *, timeout_seconds: float | None) -> bytes:
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader()
    file = os.fdopen(descriptor, "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), file)
    try:
        async with asyncio.timeout(timeout_seconds):
            return await stream.readline()
    except TimeoutError as e:
        raise DeadlineExceeded(f"starting a container: not done in {timeout_seconds:g} s") from e
    finally:
        transport.close()


def _pid_in(line: bytes) -> int:
    try:
        answer = _Answer.model_validate_json(line)
    except ValidationError as e:
        raise TransshipError(
            f"starting a container: conmon ended without an answer ({line!r})",
            reason=Reason.CONTAINER_START_FAILED,
        ) from e
    if answer.data <= 0:
        raise TransshipError(
            f"starting a container: {answer.message.strip() or 'runc failed'}",
            reason=Reason.CONTAINER_START_FAILED,
            hint=Reason.CONTAINER_START_FAILED.hint,
        )
    return answer.data


def _leave_agent(layout: Layout, *, container_id: str) -> None:
    """Move conmon out of the agent's cgroup, in which a stop of the service would kill it."""
    hierarchies = cgroups.detect()
    cgroups.create(hierarchies, layout.conmon_cgroup)
    with contextlib.suppress(ProcessLookupError):
        cgroups.enter(hierarchies, layout.conmon_cgroup, pid=conmon_pid(layout, container_id))


def conmon_pid(layout: Layout, container_id: str) -> int:
    """Raises ProcessLookupError when there is none."""
    try:
        return int(layout.conmon_pidfile(container_id).read_text())
    except FileNotFoundError as e:
        raise ProcessLookupError from e


def forget(layout: Layout, *, container_id: str) -> None:
    """Delete what an earlier run of the container left behind."""
    bundle, persist = layout.bundle(container_id), layout.persist(container_id)
    for path in (
        layout.exits / container_id, persist / "exit", persist / "oom", bundle / "oom",
        bundle / "attach", bundle / "ctl", bundle / "winsz",
        layout.pidfile(container_id), layout.conmon_pidfile(container_id),
        # conmon writes a draft and renames it; it may have been killed in between
        *layout.exits.glob(f"{container_id}.*"),
    ):  # fmt: skip
        path.unlink(missing_ok=True)


def alive(layout: Layout, container_id: str) -> bool:
    """Whether the container has a conmon."""
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        stat = processes.stat(conmon_pid(layout, container_id))
        return stat.command == "conmon" and stat.state not in processes.ENDED_STATES
    return False


def kill(layout: Layout, container_id: str) -> None:
    """Kill a conmon that hangs."""
    if alive(layout, container_id):
        with contextlib.suppress(ProcessLookupError):
            os.kill(conmon_pid(layout, container_id), signal.SIGKILL)


def exit_code(layout: Layout, container_id: str) -> int | None:
    """Return the exit code, 128 + N after signal N; None before conmon has written it."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int((layout.exits / container_id).read_text())
    return None


def oom_killed(layout: Layout, container_id: str) -> bool:
    """Whether the kernel killed a process of the container for lack of memory."""
    return (layout.persist(container_id) / "oom").exists()
