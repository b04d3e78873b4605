"""The lab's cache: folders that are expensive to make, made once, outside the repository.

An entry is complete or absent, whatever crashes: it is made in a draft beside it and renamed. Two
labs that want the same entry wait for each other instead of making it twice.
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

Say = Callable[[str], None]  # tells the user what is being made, when that takes a while


def cache_root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "transship"


def has_entry(name: str) -> bool:
    return (cache_root() / name).is_dir()


def build_log(subject: str) -> Path:
    """Where the output of the last build of something goes."""
    return cache_root() / "logs" / f"{subject}.log"


def new_log(subject: str) -> Path:
    """The same, empty, for a build that begins."""
    log = build_log(subject)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    return log


def ensure_entry(name: str, make: Callable[[Path], None]) -> Path:
    """The cache's folder of that name; `make` fills it, in a draft, when it does not exist."""
    entry = cache_root() / name
    if entry.is_dir():
        return entry
    with locked(name):
        if not entry.is_dir():
            _make(entry, make)
    return entry


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock of that name, over all processes; it goes when its holder ends, however."""
    path = cache_root() / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def digest(parts: Iterable[bytes]) -> str:
    """A short key for what an entry is made from."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "big") + part)
    return sha.hexdigest()[:16]


def _make(entry: Path, make: Callable[[Path], None]) -> None:
    # the lock is held: a draft found here was left by a crash
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
