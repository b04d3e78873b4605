from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from transship.runtime import exits
from transship.runtime.layout import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "state", tmp_path / "run")
    layout.exits.mkdir(parents=True)
    return layout


def end(layout: Layout, name: str, code: int) -> None:
    """As conmon does it."""
    draft = layout.exits / f".{name}.tmp"
    draft.write_text(str(code))
    draft.replace(layout.exits / name)


async def test_ends_of_before_and_of_now_come_once_each(layout: Layout) -> None:
    end(layout, "a", 1)
    actual = []
    async with asyncio.timeout(5), aclosing(exits.watch(layout)) as watch:
        async for one in watch:
            actual.append((one.container_id, one.code))
            match len(actual):
                case 1:
                    end(layout, "b", 2)
                case 2:
                    (layout.exits / "a").unlink()
                    end(layout, "a", 3)
                case _:
                    break
    assert actual == [("a", 1), ("b", 2), ("a", 3)]


def test_memory_pressure_is_told(layout: Layout) -> None:
    end(layout, "a", 137)
    layout.persist("a").mkdir(parents=True)
    (layout.persist("a") / "oom").touch()
    found = exits.find(layout, "a")
    assert found is not None
    assert found.oom_killed


def test_who_has_not_ended_is_not_found(layout: Layout) -> None:
    assert exits.find(layout, "a") is None


async def test_waiting_ends_when_there_is_no_conmon_to_wait_for(layout: Layout) -> None:
    async with asyncio.timeout(5):
        await exits.written(layout, "a")
