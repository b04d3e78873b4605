"""The process of the operator: composes the dependencies, acquires the lease, and runs kopf."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, cast

import kopf
from loguru import logger

from transship.agentapi.client.agent import AgentClient
from transship.common import logs
from transship.common.clock import Clock, SystemClock
from transship.common.errors import TransshipError
from transship.common.tasks import Background, Tasks, cancel_when_set
from transship.common.tls import TlsFiles
from transship.controller.addresses.claims import AddressBook
from transship.controller.agent_connections import AgentConnections
from transship.controller.agent_poller import AgentPoller
from transship.controller.cache import ResourceCache
from transship.controller.deps import Deps
from transship.controller.events import KubeConfigData, KubeRecorder, KubeTaints
from transship.controller.handlers import register
from transship.controller.health import (
    Answer,
    ApiContact,
    healthz,
    metrics_text,
    readyz,
    serving,
)
from transship.controller.leader import Leadership, LeadersTransport
from transship.controller.limits import MoveLimits
from transship.controller.metrics import Metrics
from transship.controller.node.heartbeats import NodeWatch
from transship.controller.options import Options, parse
from transship.controller.placement.resolver import Resolver
from transship.controller.ports import Heartbeats, Taints
from transship.controller.reconcile.loops import Loops
from transship.controller.reconcile.shutdown import ProcessLifetime
from transship.controller.relist import fill, keep_listing, keep_pools, keep_taints
from transship.controller.settings import configure, login
from transship.kube.client import KubeClient
from transship.kube.events import EventRecorder
from transship.kube.leases import Leases
from transship.kube.transport import ApiServer

END_SECONDS = 15.0  # kopf gives what it has begun 5 s


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    logs.configure(level=options.log_level)
    if options.kubeconfig is not None:
        os.environ["KUBECONFIG"] = str(options.kubeconfig)  # where kopf looks
    try:
        asyncio.run(serve(options))
    except TransshipError as e:
        logger.error("the operator cannot run: {}", e)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


async def serve(options: Options) -> None:
    """Run until a signal, until leadership is lost, or until a background task has ended.

    Raises TaskEnded in the last two cases.
    """
    clock, metrics, stop = SystemClock(), Metrics(), asyncio.Event()
    ready = asyncio.Event()
    last_resort = Tasks()
    async with await KubeClient.connect(options.kubeconfig) as client, AsyncExitStack() as stack:
        contact = ApiContact(client.transport, clock=clock)
        await stack.enter_async_context(_answering(options, contact, metrics, ready))
        _stop_at_signals(stop)
        stack.push_async_callback(last_resort.close)
        _ = last_resort.begin(_killed_if_late(stop), name="last resort")
        leases = Leases(KubeClient(contact))
        async with leading(leases, options, clock=clock, stop=stop) as leadership:
            transport, make = _guarded(contact, leadership)
            async with _connections(options.tls, make) as connections:
                cluster = KubeClient(transport)
                deps = compose(
                    cluster, connections, clock=clock, name=options.name, metrics=metrics
                )
                await cancel_when_set(stop, fill(deps))
                if not stop.is_set():
                    await run(deps, options, leases, KubeTaints(cluster), stop=stop, ready=ready)


@asynccontextmanager
async def _answering(
    options: Options, contact: ApiContact, metrics: Metrics, ready: asyncio.Event
) -> AsyncIterator[None]:
    """Serve health and metrics, also while waiting for the lease. A taken port fails at once."""
    health: dict[str, Answer] = {
        "/healthz": lambda: healthz(contact),
        "/readyz": lambda: readyz(contact, watching=ready.is_set()),
    }
    async with (
        serving(health, port=options.health_port),
        serving({"/metrics": lambda: metrics_text(metrics)}, port=options.metrics_port),
    ):
        yield


def _stop_at_signals(stop: asyncio.Event) -> None:
    """Stop at SIGTERM and SIGINT. Process 1 of a container has no default action for SIGTERM."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def _killed_if_late(stop: asyncio.Event) -> None:
    """Kill the process if it has not ended in time: without its lease it must not run on."""
    await stop.wait()
    await asyncio.sleep(END_SECONDS)
    logger.error("the operator did not end in time and is killed")
    os._exit(1)


@asynccontextmanager
async def leading(
    leases: Leases, options: Options, *, clock: Clock, stop: asyncio.Event
) -> AsyncIterator[Leadership | None]:
    """Lead inside the context. The lease is renewed until all work has stopped.

    None where no leader is elected.
    """
    if not options.leader_elect:
        yield None
        return
    leadership, background = (
        Leadership(leases, clock=clock, identity=options.name),
        Background(stop),
    )
    try:
        await cancel_when_set(stop, leadership.acquire())
        if not stop.is_set():
            background.keep(leadership.keep, name="lease")
        yield leadership
    finally:
        await background.close()
        await leadership.release()
    background.raise_failure()


def _guarded(
    transport: ApiServer, leadership: Leadership | None
) -> tuple[ApiServer, Callable[..., AgentClient]]:
    """The transport and the agent client, which refuse changes once this process leads no more."""
    if leadership is None:
        return transport, AgentClient
    permit = partial(AgentClient, permit=leadership.require)
    return LeadersTransport(transport, leadership), permit


@asynccontextmanager
async def _connections(
    tls: TlsFiles, make: Callable[..., AgentClient]
) -> AsyncIterator[AgentConnections]:
    connections = AgentConnections(tls, make=make)
    try:
        yield connections
    finally:
        await connections.close()


def compose(
    client: KubeClient,
    connections: AgentConnections,
    *,
    clock: SystemClock,
    name: str,
    metrics: Metrics,
) -> Deps:
    events = EventRecorder(client, component="transship-operator", instance=name)
    cache = ResourceCache()
    return Deps(
        cluster=client,
        cache=cache,
        agent_poller=AgentPoller(cache, connections, clock=clock),
        addresses=AddressBook(client),
        resolver=Resolver(KubeConfigData(client)),
        recorder=KubeRecorder(events),
        metrics=metrics,
        limits=MoveLimits(cache),
        clock=clock,
    )


async def run(
    deps: Deps,
    options: Options,
    heartbeats: Heartbeats,
    taints: Taints,
    *,
    stop: asyncio.Event,
    ready: asyncio.Event,
) -> None:
    """Run kopf and the background tasks. ready: set once kopf watches."""
    registry = kopf.OperatorRegistry()
    kopf.on.startup(registry=registry)(configure)
    kopf.on.login(registry=registry)(login)
    loops, background = Loops(deps, ProcessLifetime(stop)), Background(stop)
    register(registry, deps, loops)
    background.keep(deps.agent_poller.run, name="agent poller")
    background.keep(partial(keep_listing, deps, loops, stop), name="relist")
    background.keep(partial(keep_pools, deps), name="pools")
    background.keep(NodeWatch(deps, heartbeats).run, name="node watch")
    background.keep(partial(keep_taints, deps.cache, taints), name="taints")

    # at its end kopf waits 5 s for tasks that go on, its own waiter for the stop flag among them
    @kopf.on.cleanup(registry=registry)
    async def end_others(**_: Any) -> None:
        stop.set()
        await background.close()

    logger.info("operator runs")
    try:
        await kopf.operator(
            registry=registry,
            clusterwide=True,
            standalone=True,
            # else kopf asks for the user's name, which a container's user often has not got
            identity=cast("Any", options.name),
            stop_flag=stop,
            ready_flag=ready,
        )
    finally:
        ready.clear()
        await asyncio.gather(loops.end(), background.close(), return_exceptions=True)
    background.raise_failure()
