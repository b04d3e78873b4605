"""Pre-copy: copies the memory of a running container until it can be handed over.

memory.convergence decides what comes next. What it has decided, and what the handover is expected
to take, is in the migration's progress before the freeze.
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

WAIT_SECONDS = 0.25
"""Between two checks of how much has changed, while other containers are handed over."""
MOST_REPORTED_ROUNDS = 64
"""The API takes no more."""


class Precopy:
    """Brings the memory of outgoing containers to where the freeze may follow."""

    def __init__(self, deps: SourceDeps) -> None:
        self._deps = deps

    async def converge(self, outgoing: OutgoingMigration) -> None:
        """Return when the handover may begin. Raises TransshipError (DowntimeTooLong)."""
        await self._deps.memory.copy_shared(outgoing.order.container)
        while True:
            decision = self._decide(outgoing)
            match decision.action:
                case CopyAction.COPY_ROUND:
                    await self._copy_round(outgoing)
                case CopyAction.THROTTLE:
                    await self._throttle(outgoing, decision.cpu_share)
                    await self._copy_round(outgoing)
                case CopyAction.HAND_OVER:
                    return
                case CopyAction.POST_COPY:
                    outgoing.progress.strategy = strategies.POST_COPY
                    self._update_prediction(outgoing)
                    return
                case CopyAction.FAIL:
                    raise _failure(decision)
                case _:
                    assert_never(decision.action)

    async def reserve(self, outgoing: OutgoingMigration) -> None:
        """Without rounds: have the target make room, and predict from what is known."""
        order = outgoing.order
        # post-copy sends private memory only
        if outgoing.strategy.memory_follows:
            await self._deps.memory.copy_shared(order.container)
        pages = await self._deps.memory.reserve(order.container)
        rate = self._deps.handover_stats.rate_to(order.target.node)
        if rate is not None:
            measurements = Measurements(pages=pages, zero_pages=0, changes=(), link_rate=rate)
            outgoing.progress.prediction = predict(
                measurements, settings=_settings(order), cost=self._deps.handover_stats.cost
            ).prediction

    async def await_turn(self, outgoing: OutgoingMigration) -> None:
        """Wait in the handover queue; copy meanwhile what changes meanwhile."""
        preparation = outgoing.preparation
        place = preparation.place = self._deps.handover_queue.enter()
        if not place.has_turn:
            outgoing.progress.choice = "others are handed over first"
        while not await place.wait(seconds=WAIT_SECONDS):
            # without a count of changed pages each check would read all of the memory
            if preparation.rounds and preparation.rounds[-1].remaining_pages is not None:
                await self._catch_up(outgoing)

    async def finish(self, outgoing: OutgoingMigration) -> None:
        """Copy once more what has changed: the last thing before the freeze.

        What passes between this and the freeze prolongs the blackout by what the container writes:
        at 50 MiB/s over 1 Gbit/s each 100 ms of it are 40 ms of blackout.
        """
        rounds = outgoing.preparation.rounds
        if rounds or outgoing.strategy.memory_follows:
            await self._deps.memory.copy_shared(outgoing.order.container)
        if not rounds:
            return
        await self._catch_up(outgoing)
        while decide_next(self._copy_progress(outgoing)).action is CopyAction.COPY_ROUND:
            await self._copy_round(outgoing)
        self._update_prediction(outgoing)

    async def _catch_up(self, outgoing: OutgoingMigration) -> None:
        """Copy one more round if what has changed since the last one would be noticed."""
        preparation = outgoing.preparation
        left = await self._deps.memory.remaining_pages(outgoing.order.container)
        *earlier, last = preparation.rounds
        preparation.rounds = (*earlier, replace(last, remaining_pages=left))
        if not is_good_enough(self._copy_progress(outgoing)):
            await self._copy_round(outgoing)
        self._update_prediction(outgoing)

    async def _copy_round(self, outgoing: OutgoingMigration) -> None:
        done = await self._deps.memory.copy_round(outgoing.order.container)
        rounds = outgoing.preparation.rounds = (*outgoing.preparation.rounds, done)
        outgoing.progress.rounds = reported_rounds(rounds)
        self._deps.handover_stats.note_rate(outgoing.order.target.node, done.rate)

    async def _throttle(self, outgoing: OutgoingMigration, share: float) -> None:
        # the slower container must not fail its probes
        await self._deps.residents.pause_probes(outgoing.order.container)
        try:
            await self._deps.cpu_throttle.slow(outgoing.order.container, share)
        except NotFound as e:  # this node cannot throttle it
            logger.bind(container=outgoing.order.container).warning("not slowed down: {}", e)
            outgoing.preparation.cpu_share = None
        else:
            outgoing.preparation.cpu_share = share

    def _decide(self, outgoing: OutgoingMigration) -> CopyDecision:
        decision = decide_next(self._copy_progress(outgoing))
        outgoing.progress.choice = decision.message
        self._update_prediction(outgoing)
        return decision

    def _update_prediction(self, outgoing: OutgoingMigration) -> None:
        if outgoing.preparation.rounds:
            outgoing.progress.prediction = prediction_of(
                self._copy_progress(outgoing), outgoing.strategy
            )

    def _copy_progress(self, outgoing: OutgoingMigration) -> CopyProgress:
        settings, preparation = outgoing.order.settings, outgoing.preparation
        limit = settings.max_downtime_milliseconds
        return CopyProgress(
            strategy=outgoing.order.strategy,
            rounds=preparation.rounds,
            cost=self._deps.handover_stats.cost,
            elapsed=self._deps.clock.monotonic() - preparation.began,
            deadline=settings.deadline,
            max_downtime=None if limit is None else limit / 1e3,
            post_copy=settings.post_copy is PostCopy.ALLOWED,
            cpu_share=preparation.cpu_share,
            bandwidth=preparation.bandwidth.rate,
        )


def _settings(order: OutgoingOrder) -> MigrationSettings:
    """The placement's settings with the strategy that the operator has ordered."""
    return order.settings.model_copy(update={"strategy": order.strategy})


def reported_rounds(rounds: tuple[CopyRound, ...]) -> tuple[Round, ...]:
    """The rounds as the migration's status has them; the last ones where there are too many."""
    numbered = list(enumerate(rounds))[-MOST_REPORTED_ROUNDS:]
    return tuple(
        Round(
            number=number,
            bytes=done.bytes,
            dirty_bytes=(done.remaining_pages or 0) * PAGE_BYTES,
            milliseconds=round(done.seconds * 1e3),
        )
        for number, done in numbered
    )


def _failure(decision: CopyDecision) -> TransshipError:
    why = decision.obstacle
    if why is None:
        return TransshipError(decision.message)
    return TransshipError(why.message, reason=why.reason, hint=why.hint)
