"""Estimates the size of CRIU's images, which a move sends while the container is frozen. Pure.

The images have the content of deleted files, and the memory that CRIU does not leave to a lazy
restore. Shared memory that is mapped is copied ahead of them, except with StopAndCopy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from transship.agentapi.migrations import LARGEST_RESTORE_BODY_BYTES
from transship.api.obstacle import Obstacle, obstacle
from transship.api.placement import Strategy
from transship.api.reasons import Reason
from transship.criu.census import DELETED, Census, Deleted, MappedFile, Task
from transship.criu.images.archive import mebibytes
from transship.criu.options import GHOST_LIMIT_BYTES
from transship.linux.mappings import SHARED_MEMORY
from transship.linux.pages import PAGE_BYTES
from transship.strategies import LIVE

# on internal mounts of the kernel: memfd, System V and other shared memory, memfd_secret
KERNEL_FILES = ("/memfd:", "/SYSV", "/dev/zero", "/secretmem", "/anon_hugepage")
NAMED_AT_MOST = 3

LEAST_SHARED_PAGES = 256
"""Of shared memory that is copied ahead of the images; to track less costs more than to send it."""

_MOVING_SHARED_MEMORY_FROZEN = tuple(
    strategy.name for strategy in LIVE if not strategy.copies_shared_memory_ahead
)


class _Kind(Enum):
    """Why something is in the images: its description, and advice for the user."""

    DELETED = (
        "in deleted files",
        "let the program close deleted files (rotated logs, temporary files)",
    )
    MEMORY_FILE = (
        "in memory files that are not copied ahead",
        "let the program map the memory files (memfd) that it has open, or close them",
    )
    SHARED = (
        "in shared memory",
        "use another strategy than StopAndCopy: the others copy shared memory ahead",
    )
    KEPT = (
        "in memory that is locked, of huge pages, or a changed copy of a file",
        "let the program lock less memory",
    )


@dataclass(frozen=True)
class _Piece:
    """Something with content in CRIU's images."""

    kind: _Kind
    what: str
    bytes: int


def state_too_large(census: Census) -> Iterator[Obstacle]:
    """Yield at most one obstacle. A file above CRIU's own limit has an obstacle of its own."""
    pieces = _pieces(census)
    always = [piece for piece in pieces if piece.kind is not _Kind.SHARED]
    if _sum(always) > LARGEST_RESTORE_BODY_BYTES:
        yield _too_large(always)
    elif _sum(pieces) > LARGEST_RESTORE_BODY_BYTES:
        yield _too_large(pieces, strategies=_MOVING_SHARED_MEMORY_FROZEN)


def is_memory(target: str) -> bool:
    """Whether a descriptor or mapping is of memory, not of a file on a mount of the container."""
    return target.startswith(KERNEL_FILES)


def _pieces(census: Census) -> list[_Piece]:
    """Each file once, however many processes have it open or mapped."""
    files: dict[tuple[int, int], _Piece] = {}
    kept = []
    for task in census.tasks:
        for file, piece in (*_mapped(task), *_opened(task)):
            if file not in files or piece.kind is _Kind.SHARED:
                files[file] = piece
        if task.kept_bytes:
            kept.append(_Piece(_Kind.KEPT, _name(task), task.kept_bytes))
    return [*files.values(), *kept]


def _mapped(task: Task) -> Iterator[tuple[tuple[int, int], _Piece]]:
    for mapped in task.mapped_files:
        if _is_dumped(mapped.target, mapped.deleted):
            kind = _Kind.SHARED if _goes_ahead(mapped) else _kind_of(mapped.target)
            yield mapped.deleted.file, _piece(task, mapped.target, mapped.deleted, kind)


def _opened(task: Task) -> Iterator[tuple[tuple[int, int], _Piece]]:
    for descriptor in task.descriptors:
        if descriptor.deleted is not None and _is_dumped(descriptor.target, descriptor.deleted):
            kind = _kind_of(descriptor.target)
            yield descriptor.deleted.file, _piece(task, descriptor.target, descriptor.deleted, kind)


def _is_dumped(target: str, deleted: Deleted) -> bool:
    return not deleted.links and (is_memory(target) or deleted.bytes <= GHOST_LIMIT_BYTES)


def _goes_ahead(mapped: MappedFile) -> bool:
    enough = mapped.deleted.bytes >= LEAST_SHARED_PAGES * PAGE_BYTES
    return enough and mapped.is_shared and mapped.target.startswith(SHARED_MEMORY)


def _kind_of(target: str) -> _Kind:
    return _Kind.MEMORY_FILE if is_memory(target) else _Kind.DELETED


def _piece(task: Task, target: str, deleted: Deleted, kind: _Kind) -> _Piece:
    return _Piece(kind, f"{target.removesuffix(DELETED)} of {_name(task)}", deleted.bytes)


def _too_large(pieces: Sequence[_Piece], *, strategies: tuple[Strategy, ...] = ()) -> Obstacle:
    size, limit = mebibytes(_sum(pieces)), mebibytes(LARGEST_RESTORE_BODY_BYTES)
    kinds = [kind for kind in _Kind if any(piece.kind is kind for piece in pieces)]
    shares = [_share(kind, [piece for piece in pieces if piece.kind is kind]) for kind in kinds]
    advice = "; ".join(kind.value[1] for kind in kinds)
    too_large = obstacle(
        Reason.STATE_TOO_LARGE,
        f"CRIU's images of the container would be {size}, the limit is {limit}: "
        + ", ".join(shares),
        hint=f"bring the {size} down to {limit}: {advice}; or use the strategy Cold",
    )
    return replace(too_large, strategies=strategies, culprit=Reason.STATE_TOO_LARGE.value)


def _share(kind: _Kind, pieces: Sequence[_Piece]) -> str:
    largest = sorted(pieces, key=lambda piece: piece.bytes, reverse=True)[:NAMED_AT_MOST]
    names = ", ".join(f"{piece.what} {mebibytes(piece.bytes)}" for piece in largest)
    more = f", and {len(pieces) - NAMED_AT_MOST} more" if len(pieces) > NAMED_AT_MOST else ""
    return f"{mebibytes(_sum(pieces))} {kind.value[0]} ({names}{more})"


def _name(task: Task) -> str:
    return f"process {task.pid} ({task.command})"


def _sum(pieces: Iterable[_Piece]) -> int:
    return sum(piece.bytes for piece in pieces)
