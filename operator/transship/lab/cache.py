"""The lab's cache: folders that are expensive to build, built once, outside the repository.

An entry is complete or absent, whatever crashes: it is built in a draft folder and renamed. Labs
that need the same entry wait for each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

# reports progress to the user
Say = Callable[[str], None]


def cache_root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "transship"


def has_entry(name: str) -> bool:
    return (cache_root() / name).is_dir()


def build_log(subject: str) -> Path:
    """The log file of a subject's latest build."""
    return cache_root() / "logs" / f"{subject}.log"


def new_log(subject: str) -> Path:
    """Empty the log of a subject at the beginning of a build."""
    log = build_log(subject)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    return log


def ensure_entry(name: str, make: Callable[[Path], None]) -> Path:
    """Return the folder of that name. If it does not exist, `make` fills a draft of it first."""
    entry = cache_root() / name
    if entry.is_dir():
        return entry
    with locked(name):
        if not entry.is_dir():
            _make(entry, make)
    return entry


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold a lock between processes. The kernel releases it when the holder ends."""
    path = cache_root() / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def digest(inputs: Iterable[bytes]) -> str:
    """A short key of an entry's inputs. Each input is hashed with its length."""
    sha = hashlib.sha256()
    for content in inputs:
        sha.update(len(content).to_bytes(8, "big") + content)
    return sha.hexdigest()[:16]


def _make(entry: Path, make: Callable[[Path], None]) -> None:
    # the caller holds the lock, so an existing draft is left over from a crash
    for stale in entry.parent.glob(f".{entry.name}.*"):
        shutil.rmtree(stale)
    draft = Path(tempfile.mkdtemp(prefix=f".{entry.name}.", dir=entry.parent))
    try:
        draft.chmod(0o755)
        make(draft)
        draft.rename(entry)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
