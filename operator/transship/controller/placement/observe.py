"""What a pass over a placement observes: the cache, and the agents that may have its container.

No answer is kept apart from the answer that there is nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from enum import Enum, auto

from transship.api.placement import ContainerPlacement, PlacementStatus
from transship.common.errors import TransshipError
from transship.controller.agent_poller import AgentPoller
from transship.controller.deps import Deps
from transship.controller.placement.owner import ReportedCopy, copy_at, recorded_nodes
from transship.controller.placement.steps import ObservedPlacement


class NoAnswer(Enum):
    NO_ANSWER = auto()


NO_ANSWER = NoAnswer.NO_ANSWER


async def observe(
    placement: ContainerPlacement, status: PlacementStatus, *, is_new: bool, deps: Deps
) -> ObservedPlacement:
    """status: as this operator last wrote it.

    is_new: this process added the placement's finalizer, so that nothing was ordered before.
    """
    agent_poller, uid = deps.agent_poller, placement.metadata.uid
    migrations = deps.cache.migrations_of(uid)
    observed = ObservedPlacement(
        placement=placement,
        status=status,
        nodes=agent_poller.nodes(),
        reported_copies=agent_poller.reported_copies(uid),
        migrations=migrations,
        now=deps.clock.now(),
        full_nodes=deps.limits.full_nodes(uid),
        fenced=frozenset(n for n in recorded_nodes(status, migrations) if agent_poller.fenced(n)),
        never_ordered=_was_never_ordered(status, is_new=is_new),
        unreported_nodes=agent_poller.unreported_nodes(),
    )
    if observed.current_migration is not None:
        # the agents are busy with the migration, whose own loop asks them
        return observed
    return await _ask_agents(observed, agent_poller)


def _was_never_ordered(status: PlacementStatus, *, is_new: bool) -> bool:
    """Whether nothing can have been ordered yet.

    Only this process can know. A status without an owner may have been lost, or be a backup's.
    """
    return is_new and status.node is None and status.epoch == 0 and status.container is None


async def _ask_agents(observed: ObservedPlacement, agent_poller: AgentPoller) -> ObservedPlacement:
    """Ask the owner now; where the placement is deleted, every agent that may have something."""
    owner = observed.owner
    nodes = {owner.node} if owner is not None else set()
    # the last poll may be older than the last migration
    nodes |= {claim.node for claim in observed.claims}
    if observed.deleting:
        nodes |= {copy.node for copy in observed.reported_copies}
        nodes |= observed.recorded_nodes
    asked = sorted(nodes)
    answers = await asyncio.gather(*(_ask_agent(node, observed, agent_poller) for node in asked))
    others = [copy for copy in observed.reported_copies if copy.node not in nodes]
    return replace(
        observed,
        reported_copies=(*others, *(a for a in answers if isinstance(a, ReportedCopy))),
        unanswered=frozenset(n for n, a in zip(asked, answers, strict=True) if a is NO_ANSWER),
    )


async def _ask_agent(
    node: str, observed: ObservedPlacement, agent_poller: AgentPoller
) -> ReportedCopy | NoAnswer | None:
    """An agent that is not silent for long yet still has what it reported last."""
    uid = observed.placement.metadata.uid
    try:
        report = await agent_poller.agent(node).container(uid)
    except TransshipError:
        earlier = copy_at(observed.reported_copies, node)
        return NO_ANSWER if earlier is None or agent_poller.silent(node) else earlier
    agent_poller.note(node, uid, report)
    return None if report is None else ReportedCopy(node, report)
