"""Child processes with a deadline: the one way in which Transship runs other programs."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transship.common.errors import CommandFailed, DeadlineExceeded

DEFAULT_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Finished:
    """What a child process left: both streams decoded, undecodable bytes replaced."""

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
    """Run a program to its end.

    Raises CommandFailed on a non-zero status and DeadlineExceeded past the deadline; the child is
    killed then, and also when the awaiting task is cancelled.
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
    )
    try:
        async with asyncio.timeout(timeout_seconds):
            out, err = await child.communicate(stdin)
    except TimeoutError as e:
        raise DeadlineExceeded(f"running {words[0]}: not done in {timeout_seconds:g} s") from e
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    stdout, stderr = out.decode(errors="replace"), err.decode(errors="replace")
    if child.returncode != 0:
        raise CommandFailed(words, child.returncode or 0, stderr or stdout)
    return Finished(stdout, stderr)


def run_blocking(
    argv: Sequence[str | Path],
    *,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Finished:
    """The same for code outside an event loop (the lab, the command line)."""
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
