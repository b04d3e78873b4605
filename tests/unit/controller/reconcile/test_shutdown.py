"""What ends the waiting of a loop."""

from __future__ import annotations

import asyncio

from transship.controller.reconcile.shutdown import ProcessLifetime, wait_for_any


class TestLifetime:
    async def test_a_waiting_is_ended_by_any_event_or_by_time(self) -> None:
        never, set_already = asyncio.Event(), asyncio.Event()
        set_already.set()
        await wait_for_any(never, set_already, seconds=60)
        await wait_for_any(never, seconds=0.001)

    async def test_a_process_that_ends_is_waited_for_by_none_of_its_loops(self) -> None:
        stop = asyncio.Event()
        lifetime = ProcessLifetime(stop)
        assert not lifetime.over
        waiting = asyncio.create_task(lifetime.wait(asyncio.Event(), seconds=60))
        await asyncio.sleep(0)
        stop.set()
        await asyncio.wait_for(waiting, timeout=1)
        assert lifetime.over

    async def test_a_loop_that_waits_cannot_swallow_its_cancel(self) -> None:
        """kopf cancels every task at its end, those that only wait for an event before us."""

        async def loop() -> None:
            while True:
                await wait_for_any(asyncio.Event(), seconds=60)

        before = asyncio.all_tasks()
        task = asyncio.create_task(loop())
        await asyncio.sleep(0.001)
        for inner in asyncio.all_tasks() - before - {task}:
            inner.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=1)
        assert task.cancelled()
