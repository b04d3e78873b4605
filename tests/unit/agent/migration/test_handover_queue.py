import asyncio

from hypothesis import given
from hypothesis import strategies as st

from transship.agent.migration.handover_queue import HandoverQueue, Place

STEPS = st.lists(st.tuples(st.sampled_from(["enter", "leave"]), st.integers(0, 9)), max_size=60)


@given(number=st.integers(1, 3), acts=STEPS)
def test_turns_come_in_order_and_never_to_more_than_the_limit(
    number: int, acts: list[tuple[str, int]]
) -> None:
    async def play() -> None:
        handover_queue = HandoverQueue(number)
        present: list[Place] = []  # in the order of their coming
        for act, index in acts:
            if act == "enter":
                present.append(handover_queue.enter())
            elif present:
                present.pop(index % len(present)).leave()
            inside = [place.has_turn for place in present]
            assert sum(inside) == min(number, len(present))
            assert inside == sorted(inside, reverse=True)

    asyncio.run(play())


async def test_a_waiting_container_gets_its_turn() -> None:
    handover_queue = HandoverQueue()
    first, second = handover_queue.enter(), handover_queue.enter()
    assert await first.wait(seconds=0)
    assert not await second.wait(seconds=0)
    waiting = asyncio.create_task(second.wait(seconds=60))
    first.leave()
    assert await waiting


async def test_leaving_twice_lets_one_container_in() -> None:
    handover_queue = HandoverQueue()
    first, second, third = handover_queue.enter(), handover_queue.enter(), handover_queue.enter()
    first.leave()
    first.leave()
    assert second.has_turn
    assert not third.has_turn
