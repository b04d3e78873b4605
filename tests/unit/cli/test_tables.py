import pytest

from transship.api.base import ObjectMeta
from transship.api.container import Container
from transship.api.migration import (
    ContainerMigration,
    MigrationPhase,
    MigrationSpec,
    MigrationStatus,
)
from transship.api.placement import ContainerPlacement, PlacementSpec, PlacementStatus
from transship.cli import migrations
from transship.cli.options import print_table, table_lines

NAME = "a-placement-with-a-long-name-0123456789-ab12cd"


def migration(phase: MigrationPhase, reason: str, percent: int = 100) -> ContainerMigration:
    return ContainerMigration(
        metadata=ObjectMeta(name=NAME, namespace="default"),
        spec=MigrationSpec(
            placement_name="counter",
            placement_uid="0b5e5c1e-0000-4000-8000-000000000001",
            epoch=1,
            source_node="node-a",
            target_node="node-b",
        ),
        status=MigrationStatus(phase=phase, reason=reason, percent=percent),
    )


def test_no_cell_is_cut_off_however_narrow_the_terminal_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(("NAME", "NODE", "NOTE"), [(NAME, None, "x" * 150), ("b", 7, "")])
    assert capsys.readouterr().out.splitlines() == [
        f"{'NAME':{len(NAME)}}   NODE   NOTE",
        f"{NAME}          {'x' * 150}",
        f"{'b':{len(NAME)}}   7",
    ]


def test_without_rows_there_are_the_columns() -> None:
    assert table_lines(("NAME", "NODE"), []) == ["NAME   NODE"]


def test_a_migration_that_succeeded_needs_no_reason_and_a_failed_one_has_it_in_full() -> None:
    done = migrations._row(migration(MigrationPhase.SUCCEEDED, "MigrationSucceeded"))
    assert done == (NAME, "node-a", "node-b", "Succeeded", "100%", None, None)
    failed = migrations._row(migration(MigrationPhase.FAILED, "DowntimeTooLong", percent=40))
    assert failed[-3:] == ("40%", None, "DowntimeTooLong")


def test_a_usual_migration_fits_into_80_columns() -> None:
    row = ("counter-0a1b2c3d", "node-a", "node-b", "Succeeded", "100%", 1000, None)
    assert max(map(len, table_lines(migrations.COLUMNS, [row]))) <= 80


def placement(*, generation: int, observed: int) -> ContainerPlacement:
    return ContainerPlacement(
        metadata=ObjectMeta(name="counter", namespace="default", generation=generation),
        spec=PlacementSpec(container=Container(image="registry.example/counter:1")),
        status=PlacementStatus(observed_generation=observed),
    )


def test_a_watch_that_begins_right_after_an_edit_waits_for_the_migration() -> None:
    edited, observed = placement(generation=2, observed=1), placement(generation=2, observed=2)
    under_way = migration(MigrationPhase.COPYING, "")
    done = migration(MigrationPhase.SUCCEEDED, "MigrationSucceeded")
    assert not migrations.settled([edited], [])
    assert not migrations.settled([edited], [done])
    assert not migrations.settled([observed], [done, under_way])
    assert migrations.settled([observed], [done])
    assert migrations.settled([], [])
