from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fakes.clock import FakeClock
from fakes.instances import FakeInstances
from fakes.orders import BOOT, ID, running_record
from transship.agent.containers.decide import ObservedContainer
from transship.agent.journal import transitions
from transship.agent.journal.record import Record
from transship.agent.journal.store import Journal
from transship.agent.node import migratability
from transship.agent.node.migratability import MigratabilityScan
from transship.agentapi.states import RunState
from transship.api.obstacle import Obstacle, obstacle
from transship.api.reasons import Reason

OTHER = "0b5e2c1a-0000-4000-8000-000000000002"
TRACED = obstacle(Reason.TRACED, "process 7 is traced")


class ChangingInstances(FakeInstances):
    """Each scan finds something else."""

    def __init__(self, *scans: tuple[Obstacle, ...]) -> None:
        super().__init__()
        self._scans = list(scans)

    async def find_obstacles(self, container_id: str) -> tuple[Obstacle, ...]:
        return self._scans.pop(0)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migratability, "RESCAN_SECONDS", 0.0)


def made(
    instances: FakeInstances, folder: Path, *journaled: Record, journal: Journal | None = None
) -> MigratabilityScan:
    clock = FakeClock()
    if journal is None:
        journal = Journal(folder, boot=BOOT, node="node-a", clock=clock)
        journal.load()
    for record in journaled:
        journal.put(record)
    return MigratabilityScan(journal, instances)


async def test_an_obstacle_that_both_scans_find_counts(tmp_path: Path) -> None:
    scan = made(ChangingInstances((TRACED,), (TRACED,)), tmp_path)
    assert await scan.scan("c") == (TRACED,)
    assert scan.obstacles("c") == (TRACED,)


async def test_an_obstacle_that_only_one_scan_finds_does_not_count(tmp_path: Path) -> None:
    scan = made(ChangingInstances((TRACED,), ()), tmp_path)
    assert await scan.scan("c") == ()
    assert scan.obstacles("c") == ()


async def test_an_instance_of_an_older_agent_does_not_move_live(tmp_path: Path) -> None:
    scan = made(ChangingInstances((TRACED,), (TRACED,)), tmp_path, running_record())
    lasting, traced = await scan.scan(ID)
    assert lasting.reason == Reason.LANDLOCK_NOT_REFUSED
    assert traced == TRACED


async def test_a_new_instance_moves_live(tmp_path: Path) -> None:
    anew = transitions.started(running_record(), boot=BOOT, now=datetime.now(UTC))
    scan = made(ChangingInstances(()), tmp_path, anew)
    assert await scan.scan(ID) == ()


async def test_an_obstacle_counts_as_the_second_scan_finds_it(tmp_path: Path) -> None:
    scans = [replace(TRACED, message=f"{size} MiB", culprit="/tmp/log") for size in (300, 301)]
    scan = made(ChangingInstances((scans[0],), (scans[1],)), tmp_path)
    assert await scan.scan("c") == (scans[1],)


async def test_a_scan_without_obstacles_is_not_repeated(tmp_path: Path) -> None:
    scan = made(ChangingInstances(()), tmp_path)
    assert await scan.scan("c") == ()


async def test_a_failing_scan_of_one_container_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migratability, "SCAN_SECONDS", 0.0)

    class FailingInstances(FakeInstances):
        async def find_obstacles(self, container_id: str) -> tuple[Obstacle, ...]:
            if container_id == ID:
                raise OSError(5, "input/output error")
            return (TRACED,)

    instances, journal = (
        FailingInstances(),
        Journal(tmp_path, boot=BOOT, node="node-a", clock=FakeClock()),
    )
    for name in (ID, OTHER):
        record = running_record().but(refuses_landlock=True)
        journal.put(record.but(id=name, order=record.order.model_copy(update={"id": name})))
        instances.observed[name] = ObservedContainer(RunState.RUNNING)
    scan = made(instances, tmp_path, journal=journal)
    running = asyncio.create_task(scan.run())
    async with asyncio.timeout(2):
        while scan.obstacles(OTHER) != (TRACED,):  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0)
    running.cancel()
