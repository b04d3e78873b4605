from __future__ import annotations

import pytest

from transship.agent.node import network_resync
from transship.agent.node.network_resync import NetworkResync
from transship.common.errors import NotFound
from transship.network import ContainerNetwork


class EndOfTest(BaseException):
    """Ends a loop that would run for ever."""


async def test_the_network_is_refreshed_also_after_its_link_was_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replies: list[tuple[str, ...] | NotFound] = [(), NotFound("x"), NotFound("x"), ("c-1",)]
    answers = iter(replies)
    refreshed: list[tuple[str, ...]] = []

    class Network(ContainerNetwork):
        def __init__(self) -> None:
            """Without the node's links."""

        def refresh(self) -> tuple[str, ...]:
            answer = next(answers, EndOfTest())
            if isinstance(answer, BaseException):
                raise answer
            refreshed.append(answer)
            return answer

    monkeypatch.setattr(network_resync, "RESYNC_SECONDS", 0)
    with pytest.raises(EndOfTest):
        await NetworkResync(Network()).run()
    assert ("c-1",) in refreshed
