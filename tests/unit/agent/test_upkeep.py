from __future__ import annotations

import asyncio

import pytest

from transship.agent import upkeep
from transship.agent.app import keep_at
from transship.agent.upkeep import Upkeep
from transship.common.errors import NotFound


class Enough(BaseException):
    """Ends what would go on for ever."""


async def test_the_network_is_looked_after_also_when_its_link_was_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter([(), NotFound("no link"), NotFound("no link"), ("c-1",)])
    looked = []

    class Network:
        def refresh(self) -> tuple[str, ...]:
            answer = next(answers, Enough())
            looked.append(answer)
            if isinstance(answer, BaseException):
                raise answer
            return answer

    monkeypatch.setattr(upkeep, "LOOK_SECONDS", 0)
    with pytest.raises(Enough):
        await Upkeep(Network()).run()
    assert ("c-1",) in looked


async def test_background_work_that_fails_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transship.agent.app.BEGIN_ANEW_SECONDS", 0)
    begun = []

    async def work() -> None:
        begun.append(len(begun))
        if len(begun) < 3:
            raise OSError(24, "descriptors are short")

    async with asyncio.timeout(5):
        await keep_at(work, name="work")
    assert begun == [0, 1, 2]
