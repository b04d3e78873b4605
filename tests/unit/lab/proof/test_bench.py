from __future__ import annotations

from transship.api.base import ObjectMeta
from transship.api.migration import (
    BlackoutPart,
    ContainerMigration,
    MigrationSpec,
    MigrationStatus,
    Round,
)
from transship.api.placement import Strategy
from transship.lab.proof.bench import Result, Run, run_of

MEBI = 1 << 20


def moved(blackout_ms: int, **parts: int) -> Run:
    """A move as its status tells it; parts in microseconds."""
    migration = ContainerMigration(
        metadata=ObjectMeta(name="bench-0-1-1", namespace="default"),
        spec=MigrationSpec(
            placement_name="bench-0",
            placement_uid="uid",
            source_node="node-a",
            target_node="node-b",
            epoch=1,
        ),
        status=MigrationStatus(
            strategy=Strategy.PRE_COPY,
            blackout_milliseconds=blackout_ms,
            bytes=7,
            rounds=(
                Round(number=0, bytes=64 * MEBI, milliseconds=128),
                Round(number=1, bytes=9, milliseconds=1),
            ),
            blackout_parts=tuple(
                BlackoutPart(name=name, microseconds=size) for name, size in parts.items()
            ),
        ),
    )
    return run_of(migration, memory=64 * MEBI, stall_ms=70.0, total_ms=900.0)


def test_a_run_has_the_figures_of_its_own_migration() -> None:
    run = moved(60, Freeze=1_000)
    assert (run.strategy, run.memory_bytes, run.bytes_sent) == ("PreCopy", 64 * MEBI, 7)
    assert (run.blackout_ms, run.stall_ms, run.total_ms) == (60.0, 70.0, 900.0)


def test_parts_that_follow_each_other_leave_the_rest_of_the_blackout_unexplained() -> None:
    run = moved(60, Freeze=2_000, Dump=20_000, Restore=35_000, Resume=1_000)
    assert run.rest_us == 2_000


def test_parts_within_or_beside_others_are_not_counted_twice() -> None:
    run = moved(60, Dump=20_000, CriuDump=18_000, SendMemory=9_000, Restore=40_000,
                TargetRestore=30_000, TargetMount=2_000)  # fmt: skip
    assert run.rest_us == 0


def test_crius_share_is_its_dump_and_its_restore() -> None:
    assert moved(60, Dump=20_000, CriuDump=18_000, TargetRestore=30_000).criu_ms == 48.0
    assert moved(60).criu_ms == 0.0


def test_the_median_is_of_each_figure_by_itself() -> None:
    runs = [moved(ms, CriuDump=1000 * ms) for ms in (90, 50, 70)]
    found = Result(tuple(runs)).medians()
    assert found == {
        "strategy": "PreCopy", "memory_bytes": 64 * MEBI, "blackout_ms": 70.0, "stall_ms": 70.0,
        "total_ms": 900.0, "bytes_sent": 7, "criu_ms": 70.0,
        "copy_mb_per_second": 524.3,
    }  # fmt: skip


def test_the_median_of_a_part_counts_the_moves_without_it() -> None:
    result = Result((moved(60, Dump=5), moved(60, Dump=7, Mend=9), moved(60, Dump=6)))
    assert result.median_parts() == {"Dump": 6, "Mend": 0}
