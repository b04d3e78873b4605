"""Copying the memory of a running container until it is to be handed over (plan.convergence).

What was decided, and what the handover is expected to be like, stands in the departure before the
freeze.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from loguru import logger

from transship.agent.departure import Departure
from transship.agent.source_parts import SourceParts
from transship.api.migration import Round
from transship.api.placement import MigrationSettings, PostCopy, Strategy
from transship.common.errors import NotFound, TransshipError
from transship.plan.convergence import Act, Decision, Seen, decide, is_good
from transship.plan.forecast import Load, foretell, foretold
from transship.plan.moves import deadline_seconds
from transship.protocol.migrations import OutgoingOrder
from transship.transfer.page_ranges import PAGE_BYTES
from transship.transfer.rounds import CopyRound

KEEP_UP_SECONDS = 0.25
"""Between two looks at how much has changed, while others are being handed over."""
TELLING_BYTES = 4 << 20
"""Of less, sent at once, the time tells of the round trip more than of the link."""
SHOWN_ROUNDS = 64  # as many as the API takes


class MemoryRounds:
    """Brings one departure after the other to where it can be handed over."""

    def __init__(self, parts: SourceParts) -> None:
        self._with = parts

    async def converge(self, departure: Departure) -> None:
        """Return when to hand over. Raises TransshipError (DowntimeTooLong) when that never is."""
        await self._with.copies.copy_shared(departure.order.container)
        while True:
            decision = self._decide(departure)
            match decision.act:
                case Act.ROUND:
                    await self._round(departure)
                case Act.SLOW_DOWN:
                    await self._slow_down(departure, decision.share)
                    await self._round(departure)
                case Act.HAND_OVER:
                    return
                case Act.POST_COPY:
                    departure.strategy = Strategy.POST_COPY
                    departure.prediction = foretold(self._seen(departure), Strategy.POST_COPY)
                    return
                case Act.FAIL:
                    raise _failure(decision)
                case _:
                    assert_never(decision.act)

    async def announce(self, departure: Departure) -> None:
        """Nothing is copied before the freeze: have the target make room, foretell the rest."""
        order = departure.order
        if departure.memory_follows:  # what is shared does not follow
            await self._with.copies.copy_shared(order.container)
        pages = await self._with.copies.announce_memory(order.container)
        rate = self._with.experience.rate_to(order.target.node)
        if rate is not None:
            load = Load(pages=pages, zero_pages=0, changes=(), link_rate=rate)
            departure.prediction = foretell(
                load, settings=_with_strategy(order), cost=self._with.experience.cost
            ).prediction

    async def keep_up(self, departure: Departure) -> None:
        """Wait for the turn at the handover; what changes meanwhile is copied meanwhile."""
        place = departure.place = self._with.slots.enter()
        if not place.has_turn:
            departure.choice = "others are handed over first"
        while not await place.wait(seconds=KEEP_UP_SECONDS):
            if departure.copied and departure.copied[-1].left_pages is not None:
                await self._catch_up(departure)  # else each look would read all of the memory

    async def close_in(self, departure: Departure) -> None:
        """Once more what has changed since: the last thing before the freeze.

        What is between this and the freeze counts at the rate at which the container writes: at
        50 MiB/s over 1 Gbit/s each 100 ms of it are 40 ms of blackout.
        """
        if departure.copied or departure.memory_follows:
            await self._with.copies.copy_shared(departure.order.container)
        if not departure.copied:
            return
        await self._catch_up(departure)
        while decide(self._seen(departure)).act is Act.ROUND:
            await self._round(departure)
        self._foretell(departure)

    async def _catch_up(self, departure: Departure) -> None:
        """One more round if what has changed since the last one would be noticed."""
        left = await self._with.copies.left_pages(departure.order.container)
        departure.copied = (*departure.copied[:-1], replace(departure.copied[-1], left_pages=left))
        if not is_good(self._seen(departure)):
            await self._round(departure)
        self._foretell(departure)

    async def _round(self, departure: Departure) -> None:
        done = await self._with.copies.copy_round(departure.order.container)
        departure.copied = (*departure.copied, done)
        departure.rounds = shown(departure.copied)
        self._with.experience.note_rate(departure.order.target.node, done.rate)

    def note_rate(self, departure: Departure, *, seconds: float) -> None:
        """After a memory that was sent at once, as far as it was enough to tell."""
        sent = departure.traffic.wire_bytes if departure.traffic is not None else 0
        if not departure.in_rounds and sent >= TELLING_BYTES:
            self._with.experience.note_rate(departure.order.target.node, sent / seconds)

    async def _slow_down(self, departure: Departure, share: float) -> None:
        # a slow container must not fail its probes for it
        await self._with.residents.quieten(departure.order.container)
        try:
            await self._with.brakes.slow(departure.order.container, share)
        except NotFound as e:  # it is not to be slowed down on this node
            logger.bind(container=departure.order.container).warning("not slowed down: {}", e)
            departure.share = None
        else:
            departure.share = share

    def _decide(self, departure: Departure) -> Decision:
        decision = decide(self._seen(departure))
        departure.choice = decision.message
        self._foretell(departure)
        return decision

    def _foretell(self, departure: Departure) -> None:
        if departure.copied:
            departure.prediction = foretold(self._seen(departure), departure.strategy)

    def _seen(self, departure: Departure) -> Seen:
        settings = departure.order.settings
        limit = settings.max_downtime_milliseconds
        return Seen(
            strategy=departure.order.strategy,
            rounds=departure.copied,
            cost=self._with.experience.cost,
            elapsed=self._with.clock.monotonic() - departure.began,
            deadline=deadline_seconds(settings),
            max_downtime=None if limit is None else limit / 1e3,
            post_copy=settings.post_copy is PostCopy.ALLOWED,
            share=departure.share,
            limit=departure.pace.rate,
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
            dirty_bytes=(each.left_pages or 0) * PAGE_BYTES,
            milliseconds=round(each.seconds * 1e3),
        )
        for number, each in numbered
    )


def _failure(decision: Decision) -> TransshipError:
    why = decision.why
    if why is None:
        return TransshipError(decision.message)
    return TransshipError(why.message, reason=why.reason, hint=why.hint)
