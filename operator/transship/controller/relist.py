"""Complete lists: before the first decision, and regularly for what a broken watch missed."""

from __future__ import annotations

import asyncio

from loguru import logger

from transship.api.migration import ContainerMigration
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement
from transship.common.errors import TransshipError
from transship.controller.cache import ResourceCache
from transship.controller.deps import Deps
from transship.controller.handlers import POOLS
from transship.controller.ports import Taints
from transship.controller.reconcile.loops import Loops
from transship.controller.reconcile.shutdown import wait_for_any

# what a broken watch has missed, above all deletions
RELIST_SECONDS = 60.0
STARTUP_RETRY_SECONDS = 1.0


async def fill(deps: Deps) -> None:
    """Fill the cache before the first decision: a missing object would look like a deleted one."""
    while True:
        try:
            await _list_all(deps)
        except TransshipError as e:
            logger.bind(error=str(e)).warning("the cluster cannot be read yet")
            await asyncio.sleep(STARTUP_RETRY_SECONDS)
        else:
            return


async def _list_all(deps: Deps) -> None:
    for model in (NodeAgent, ContainerPlacement, ContainerMigration):
        uids = deps.cache.uids(model)
        deps.cache.keep_only(model, await deps.cluster.listing(model), instead_of=uids)


async def keep_listing(deps: Deps, loops: Loops, stop: asyncio.Event) -> None:
    """Make up for what a broken watch missed; end the process when kopf no longer watches at all.

    kopf does not restart a watch that has ended (nolar/kopf#1276). Only kopf's events give a new
    placement its loop, so a placement without one shows such a watch.
    """
    while not stop.is_set():
        await asyncio.sleep(RELIST_SECONDS)
        try:
            await _list_all(deps)
        except TransshipError as e:
            logger.bind(error=str(e)).warning("the cluster was not listed")
            continue
        loops.resume()
        now = deps.clock.monotonic()
        if names := deps.cache.without_loop(at=now, with_loop=loops.with_loop):
            logger.bind(placements=names).error("no events of new placements any more, ending")
            stop.set()


async def keep_taints(cache: ResourceCache, taints: Taints) -> None:
    """Keep the taints of nodes up to date: events are fast, and a list makes up for lost ones."""
    while True:
        try:
            cache.put_out_of_service(await taints.out_of_service())
        except TransshipError as e:
            logger.bind(error=str(e)).warning("the nodes were not listed")
        await asyncio.sleep(RELIST_SECONDS)


async def keep_pools(deps: Deps) -> None:
    changed = deps.cache.wake_of(POOLS)
    while True:
        changed.clear()
        try:
            await deps.addresses.update_sizes(now=deps.clock.now())
        except TransshipError as e:
            logger.bind(error=str(e)).warning("the address pools were not listed")
        await wait_for_any(changed, seconds=RELIST_SECONDS)
