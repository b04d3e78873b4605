"""Copying the memory of a running container until it is to be handed over (memory.convergence).

What was decided, and what the handover is expected to be like, stands in the departure before the
freeze.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from loguru import logger

from transship import strategies
from transship.agent.migration.source.deps import SourceDeps
from transship.agent.migration.source.outgoing import OutgoingMigration
from transship.agentapi.migrations import OutgoingOrder
from transship.api.migration import Round
from transship.api.placement import MigrationSettings, PostCopy
from transship.common.errors import NotFound, TransshipError
from transship.linux.pages import PAGE_BYTES
from transship.memory.convergence import CopyAction, CopyDecision, decide_next, is_good_enough
from transship.memory.copy_progress import CopyProgress, CopyRound
from transship.memory.prediction import Measurements, predict, prediction_of

KEEP_UP_SECONDS = 0.25
"""Between two looks at how much has changed, while others are being handed over."""
TELLING_BYTES = 4 << 20
"""Of less, sent at once, the time tells of the round trip more than of the link."""
SHOWN_ROUNDS = 64  # as many as the API takes


class Precopy:
    """Brings one departure after the other to where it can be handed over."""

    def __init__(self, deps: SourceDeps) -> None:
        self._deps = deps

    async def converge(self, outgoing: OutgoingMigration) -> None:
        """Return when to hand over. Raises TransshipError (DowntimeTooLong) when that never is."""
        await self._deps.memory.copy_shared(outgoing.order.container)
        while True:
            decision = self._decide(outgoing)
            match decision.action:
                case CopyAction.COPY_ROUND:
                    await self._round(outgoing)
                case CopyAction.THROTTLE:
                    await self._slow_down(outgoing, decision.cpu_share)
                    await self._round(outgoing)
                case CopyAction.HAND_OVER:
                    return
                case CopyAction.POST_COPY:
                    outgoing.strategy = strategies.POST_COPY
                    self._update_prediction(outgoing)
                    return
                case CopyAction.FAIL:
                    raise _failure(decision)
                case _:
                    assert_never(decision.action)

    async def announce(self, outgoing: OutgoingMigration) -> None:
        """Nothing is copied before the freeze: have the target make room, predict the rest."""
        order = outgoing.order
        if outgoing.strategy.memory_follows:  # what is shared does not follow
            await self._deps.memory.copy_shared(order.container)
        pages = await self._deps.memory.reserve(order.container)
        rate = self._deps.handover_stats.rate_to(order.target.node)
        if rate is not None:
            measurements = Measurements(pages=pages, zero_pages=0, changes=(), link_rate=rate)
            outgoing.prediction = predict(
                measurements, settings=_with_strategy(order), cost=self._deps.handover_stats.cost
            ).prediction

    async def keep_up(self, outgoing: OutgoingMigration) -> None:
        """Wait for the turn at the handover; what changes meanwhile is copied meanwhile."""
        place = outgoing.place = self._deps.handover_queue.enter()
        if not place.has_turn:
            outgoing.choice = "others are handed over first"
        while not await place.wait(seconds=KEEP_UP_SECONDS):
            if outgoing.copied and outgoing.copied[-1].remaining_pages is not None:
                await self._catch_up(outgoing)  # else each look would read all of the memory

    async def close_in(self, outgoing: OutgoingMigration) -> None:
        """Once more what has changed since: the last thing before the freeze.

        What is between this and the freeze counts at the rate at which the container writes: at
        50 MiB/s over 1 Gbit/s each 100 ms of it are 40 ms of blackout.
        """
        if outgoing.copied or outgoing.strategy.memory_follows:
            await self._deps.memory.copy_shared(outgoing.order.container)
        if not outgoing.copied:
            return
        await self._catch_up(outgoing)
        while decide_next(self._progress(outgoing)).action is CopyAction.COPY_ROUND:
            await self._round(outgoing)
        self._update_prediction(outgoing)

    async def _catch_up(self, outgoing: OutgoingMigration) -> None:
        """One more round if what has changed since the last one would be noticed."""
        left = await self._deps.memory.remaining_pages(outgoing.order.container)
        outgoing.copied = (
            *outgoing.copied[:-1],
            replace(outgoing.copied[-1], remaining_pages=left),
        )
        if not is_good_enough(self._progress(outgoing)):
            await self._round(outgoing)
        self._update_prediction(outgoing)

    async def _round(self, outgoing: OutgoingMigration) -> None:
        done = await self._deps.memory.copy_round(outgoing.order.container)
        outgoing.copied = (*outgoing.copied, done)
        outgoing.rounds = shown(outgoing.copied)
        self._deps.handover_stats.note_rate(outgoing.order.target.node, done.rate)

    def note_rate(self, outgoing: OutgoingMigration, *, seconds: float) -> None:
        """After a memory that was sent at once, as far as it was enough to tell."""
        sent = outgoing.traffic.wire_bytes if outgoing.traffic is not None else 0
        if not outgoing.ordered_strategy.copies_memory_in_rounds and sent >= TELLING_BYTES:
            self._deps.handover_stats.note_rate(outgoing.order.target.node, sent / seconds)

    async def _slow_down(self, outgoing: OutgoingMigration, share: float) -> None:
        # a slow container must not fail its probes for it
        await self._deps.residents.pause_probes(outgoing.order.container)
        try:
            await self._deps.cpu_throttle.slow(outgoing.order.container, share)
        except NotFound as e:  # it is not to be slowed down on this node
            logger.bind(container=outgoing.order.container).warning("not slowed down: {}", e)
            outgoing.share = None
        else:
            outgoing.share = share

    def _decide(self, outgoing: OutgoingMigration) -> CopyDecision:
        decision = decide_next(self._progress(outgoing))
        outgoing.choice = decision.message
        self._update_prediction(outgoing)
        return decision

    def _update_prediction(self, outgoing: OutgoingMigration) -> None:
        if outgoing.copied:
            outgoing.prediction = prediction_of(self._progress(outgoing), outgoing.strategy)

    def _progress(self, outgoing: OutgoingMigration) -> CopyProgress:
        settings = outgoing.order.settings
        limit = settings.max_downtime_milliseconds
        return CopyProgress(
            strategy=outgoing.order.strategy,
            rounds=outgoing.copied,
            cost=self._deps.handover_stats.cost,
            elapsed=self._deps.clock.monotonic() - outgoing.began,
            deadline=settings.deadline,
            max_downtime=None if limit is None else limit / 1e3,
            post_copy=settings.post_copy is PostCopy.ALLOWED,
            cpu_share=outgoing.share,
            bandwidth=outgoing.bandwidth.rate,
        )


def _with_strategy(order: OutgoingOrder) -> MigrationSettings:
    """What the operator made of the placement's wish counts."""
    return order.settings.model_copy(update={"strategy": order.strategy})


def shown(rounds: tuple[CopyRound, ...]) -> tuple[Round, ...]:
    """The rounds as the migration's status has them; the last ones where there are too many."""
    numbered = list(enumerate(rounds))[-SHOWN_ROUNDS:]
    return tuple(
        Round(
            number=number,
            bytes=each.bytes,
            dirty_bytes=(each.remaining_pages or 0) * PAGE_BYTES,
            milliseconds=round(each.seconds * 1e3),
        )
        for number, each in numbered
    )


def _failure(decision: CopyDecision) -> TransshipError:
    why = decision.obstacle
    if why is None:
        return TransshipError(decision.message)
    return TransshipError(why.message, reason=why.reason, hint=why.hint)
