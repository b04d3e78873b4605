"""Child processes with a time limit. All of Transship starts other programs with this module."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from transship.common.errors import CommandFailed, DeadlineExceeded

DEFAULT_TIMEOUT_SECONDS = 60.0
KILL_TIMEOUT_SECONDS = 5.0
KILL_POLL_SECONDS = 0.005
TAIL_BYTES = 16 << 10


@dataclass(frozen=True)
class Finished:
    """The output of a child process, decoded as UTF-8. Bytes that are not UTF-8 are replaced."""

    stdout: str
    stderr: str


async def run(
    argv: Sequence[str | Path],
    *,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> Finished:
    """Run a program and wait for its end.

    Raises CommandFailed on a non-zero status and DeadlineExceeded after the time limit. The child
    is killed with its session then, and also when the awaiting task is cancelled.
    """
    words = [str(word) for word in argv]
    child = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=None if env is None else dict(env),
        cwd=cwd,
        pass_fds=pass_fds,
        # helpers of the child (such as mount.nfs) are killed with it
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout_seconds):
            out, err = await child.communicate(stdin)
    except TimeoutError as e:
        raise DeadlineExceeded(f"running {words[0]}: not done in {timeout_seconds:g} s") from e
    finally:
        if child.returncode is None:
            await _kill(child)
    stdout, stderr = out.decode(errors="replace"), err.decode(errors="replace")
    if child.returncode != 0:
        raise CommandFailed(words, child.returncode or 0, stderr or stdout)
    return Finished(stdout, stderr)


async def _kill(child: asyncio.subprocess.Process) -> None:
    """Kill the child's session and wait for the child, but not for ever: the kernel may block it.

    Process.wait of Python 3.11 also waits for the pipes, and a process that has left the session
    may keep them open.
    """
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(KILL_TIMEOUT_SECONDS):
            while child.returncode is None:  # noqa: ASYNC110 - there is no event but wait's
                await asyncio.sleep(KILL_POLL_SECONDS)


def run_blocking(
    argv: Sequence[str | Path],
    *,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Finished:
    """Run a program outside an event loop (lab, command line). Otherwise the same as `run`."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_seconds,
            env=None if env is None else dict(env),
            cwd=cwd,
            check=False,
        )
    except subprocess.TimeoutExpired as e:
        raise DeadlineExceeded(f"running {words[0]}: not done in {timeout_seconds:g} s") from e
    stdout, stderr = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    if done.returncode != 0:
        raise CommandFailed(words, done.returncode, stderr or stdout)
    return Finished(stdout, stderr)


def run_logged(
    argv: Sequence[str | Path],
    *,
    log: Path,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> None:
    """Run a build that takes minutes, outside an event loop. All output is appended to a file.

    An error has the end of this program's output, and its hint names the file.
    """
    words = [str(word) for word in argv]
    hint = f"the whole log: {log}"
    with log.open("ab") as file:
        file.write(f"$ {shlex.join(words)}\n".encode())
        file.flush()
        start = file.tell()
        try:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=timeout_seconds,
                env=None if env is None else dict(env),
                cwd=cwd,
                check=False,
            )
        except subprocess.TimeoutExpired as e:
            message = f"running {words[0]}: not done in {timeout_seconds:g} s"
            raise DeadlineExceeded(message, hint=hint) from e
    if done.returncode != 0:
        raise CommandFailed(words, done.returncode, _tail(log, start=start), hint=hint)


def _tail(log: Path, *, start: int) -> str:
    with log.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(start, end - TAIL_BYTES))
        return file.read().decode(errors="replace")
