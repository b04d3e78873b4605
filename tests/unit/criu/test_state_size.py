"""What a move would have to send inside the freeze, and that it is refused before it when that is
too much."""

from __future__ import annotations

import pytest

from transship.agentapi.migrations import LARGEST_RESTORE_BODY_BYTES
from transship.api.obstacle import Obstacle
from transship.api.placement import Strategy
from transship.api.reasons import Reason
from transship.criu.census import Census, Deleted, Descriptor, MappedFile, Task
from transship.criu.obstacles import obstacles_in

MIB = 1 << 20
LIVE = tuple(strategy for strategy in Strategy if strategy is not Strategy.COLD)


def opened(inode: int, mebibytes: int, name: str = "/tmp/a") -> Descriptor:
    left = Deleted(links=0, bytes=mebibytes * MIB, file=(1, inode))
    return Descriptor(inode, f"{name} (deleted)", deleted=left)


def mapped(
    inode: int, mebibytes: int, name: str = "/memfd:a", *, is_shared: bool = True
) -> MappedFile:
    left = Deleted(links=0, bytes=mebibytes * MIB, file=(1, inode))
    return MappedFile(f"{name} (deleted)", is_shared, left)


def task(*files: Descriptor | MappedFile, pid: int = 1, kept: int = 0) -> Task:
    return Task(
        pid=pid,
        command="main",
        descriptors=tuple(each for each in files if isinstance(each, Descriptor)),
        mapped_files=tuple(each for each in files if isinstance(each, MappedFile)),
        kept_bytes=kept * MIB,
    )


def found(*tasks: Task) -> list[Obstacle]:
    return list(obstacles_in(Census(tasks=tasks)))


def refused(*tasks: Task) -> tuple[Strategy, ...]:
    """The strategies with which it cannot be moved."""
    return tuple(s for s in LIVE if any(each.concerns(s) for each in found(*tasks)))


THREE_FILES = task(opened(1, 100), opened(2, 100, "/tmp/b"), opened(3, 100, "/tmp/c"))

TOO_LARGE = {
    "deleted files": THREE_FILES,
    "deleted files that are only mapped": task(mapped(1, 200, "/dev/shm/a"), mapped(2, 57, "/b")),
    "of all kinds": task(opened(1, 100), mapped(2, 100, "/b"), opened(3, 50, "/memfd:x"), kept=7),
    "a memory file that nobody maps": task(opened(1, 257, "/memfd:x")),
    "shared memory of huge pages": task(mapped(1, 257, "/anon_hugepage")),
    "a memory file that is mapped privately": task(mapped(1, 257, is_shared=False)),
    "locked memory": task(kept=257),
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_what_is_in_the_images_with_every_strategy_is_counted(case: str) -> None:
    [obstacle] = found(TOO_LARGE[case])
    assert obstacle.reason == Reason.STATE_TOO_LARGE
    assert refused(TOO_LARGE[case]) == LIVE


def test_it_is_said_with_size_limit_and_culprits() -> None:
    [obstacle] = found(THREE_FILES)
    assert obstacle.message == (
        "CRIU's images of the container would be 300 MiB, the limit is 256 MiB: 300 MiB in deleted"
        " files (/tmp/a of process 1 (main) 100 MiB, /tmp/b of process 1 (main) 100 MiB,"
        " /tmp/c of process 1 (main) 100 MiB)"
    )
    assert obstacle.hint == (
        "bring the 300 MiB down to 256 MiB: let the program close deleted files (rotated logs,"
        " temporary files); or use the strategy Cold"
    )


def test_shared_memory_counts_where_nothing_is_copied_ahead() -> None:
    shared = [task(mapped(1, 257, name)) for name in ("/memfd:heap", "/SYSV00000000", "/dev/zero")]
    for each in shared:
        assert refused(each) == (Strategy.STOP_AND_COPY,)
    assert "another strategy than StopAndCopy" in found(shared[0])[0].hint
    with_files = task(mapped(1, 200), opened(2, 100))
    assert refused(with_files) == (Strategy.STOP_AND_COPY,)
    assert refused(task(mapped(1, 200), opened(2, 257 - 200))) == (Strategy.STOP_AND_COPY,)


def test_a_large_memory_file_moves_with_every_other_strategy() -> None:
    """ZGC keeps its heap in one, which it has open and maps several times."""
    heap = task(opened(1, 8192, "/memfd:java_heap"), mapped(1, 8192, "/memfd:java_heap"))
    assert refused(heap) == (Strategy.STOP_AND_COPY,)
    assert [each.reason for each in found(heap)] == [Reason.STATE_TOO_LARGE]


def test_a_file_counts_once_however_many_have_it() -> None:
    assert found(*(task(opened(1, 200), mapped(1, 200, "/tmp/a"), pid=n) for n in (1, 2, 3))) == []
    forked = [task(mapped(1, 200), pid=1), task(opened(1, 200, "/memfd:a"), pid=2)]
    assert found(*forked) == []


def test_small_pieces_of_shared_memory_are_not_copied_ahead() -> None:
    pieces = task(*(
        MappedFile("/dev/zero (deleted)", True, Deleted(0, MIB - 4096, file=(1, n)))
        for n in range(258)
    ))  # fmt: skip
    assert refused(pieces) == LIVE
    assert "and 255 more" in found(pieces)[0].message


def test_exactly_the_limit_is_not_refused() -> None:
    assert found(task(opened(1, 128), opened(2, LARGEST_RESTORE_BODY_BYTES // MIB - 128))) == []


def test_a_file_beyond_crius_own_limit_is_told_of_alone() -> None:
    [opened_one] = found(task(opened(1, 257)))
    [mapped_one] = found(task(mapped(1, 257, "/dev/shm/a")))
    for each in (opened_one, mapped_one):
        assert each.reason == Reason.DELETED_FILE_TOO_LARGE
        assert f"{257 * MIB} bytes; the limit is {256 * MIB}" in each.message


def test_what_grows_from_look_to_look_is_the_same_obstacle() -> None:
    [before], [after] = found(task(opened(1, 257))), found(task(opened(1, 258)))
    assert before.message != after.message
    assert before.is_same(after)
    [before], [after] = (found(task(opened(1, 200), opened(2, size))) for size in (57, 58))
    assert before.message != after.message
    assert before.is_same(after)
    [other] = found(task(opened(2, 257)))
    assert not after.is_same(other)
