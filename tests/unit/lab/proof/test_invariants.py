"""The report of a finished migration has to be complete."""

from transship.api.migration import ContainerMigration
from transship.lab.proof.invariants import report_gaps


def migration(**status: object) -> ContainerMigration:
    made = {
        "metadata": {"name": "w-1-1"},
        "spec": {
            "placementName": "w", "placementUID": "u", "sourceNode": "a", "targetNode": "b",
            "epoch": 1,
        },
        "status": status,
    }  # fmt: skip
    return ContainerMigration.model_validate(made)


def test_a_failed_migration_needs_a_known_reason_and_its_hint() -> None:
    unexplained = migration(phase="Failed", reason="Whatever", message="it broke")
    assert any("in no table" in finding for finding in report_gaps(unexplained))
    bare = migration(phase="Failed", reason="JournalUnwritable", message="no room")
    assert any("without a hint" in finding for finding in report_gaps(bare))


def test_a_migration_under_way_needs_no_report_yet() -> None:
    assert list(report_gaps(migration(phase="Copying"))) == []
