"""The operator as a process: composes the parts, leads if it may, runs kopf until told to end."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import kopf
from loguru import logger

from transship.agentapi.client.agent import AgentClient
from transship.api.migration import ContainerMigration
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement
from transship.common import logs
from transship.common.clock import Clock, SystemClock
from transship.common.errors import TransshipError
from transship.common.tasks import Background, Tasks, unless_set
from transship.common.tls import TlsFiles
from transship.controller.addresses.claims import AddressBook
from transship.controller.agent_connections import AgentConnections
from transship.controller.agent_poller import AgentPoller
from transship.controller.cache import ResourceCache
from transship.controller.deps import Deps
from transship.controller.events import KubeConfigData, KubeRecorder, KubeTaints
from transship.controller.handlers import POOLS, register
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
from transship.controller.placement.resolver import Resolver
from transship.controller.ports import Heartbeats, Taints
from transship.controller.reconcile.loops import Loops
from transship.controller.reconcile.shutdown import ProcessLifetime, wait_for_any
from transship.controller.settings import configure
from transship.kube.client import KubeClient
from transship.kube.events import EventRecorder
from transship.kube.leases import Leases
from transship.kube.transport import ApiServer

RELIST_SECONDS = 60.0  # what a broken watch has missed, above all deletions
STARTUP_RETRY_SECONDS = 1.0
END_SECONDS = 15.0  # kopf gives what it has begun 5 s


@dataclass(frozen=True)
class Options:
    kubeconfig: Path | None
    tls: TlsFiles
    name: str
    leader_elect: bool
    health_port: int | None
    metrics_port: int | None
    log_level: str


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


def parse(argv: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m transship.controller", description="The operator of Transship."
    )
    parser.add_argument("--kubeconfig", type=Path, help="default: $KUBECONFIG, then the pod's own")
    parser.add_argument("--ca", type=Path, required=True, help="authority of agents and operator")
    parser.add_argument("--cert", type=Path, required=True, help="the operator's certificate")
    parser.add_argument("--key", type=Path, required=True, help="the operator's private key")
    parser.add_argument("--name", default=f"{socket.gethostname()}-{os.getpid()}",
                        help="of this process, in leases and events")  # fmt: skip
    parser.add_argument("--leader-elect", action="store_true", help="act only while leading")
    parser.add_argument("--health-port", type=int, help="serve /healthz on this port")
    parser.add_argument("--metrics-port", type=int, help="serve /metrics on this port")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING"])
    given = parser.parse_args(argv)
    return Options(
        kubeconfig=given.kubeconfig,
        tls=TlsFiles(given.ca, given.cert, given.key),
        name=given.name,
        leader_elect=given.leader_elect,
        health_port=given.health_port,
        metrics_port=given.metrics_port,
        log_level=given.log_level,
    )


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
                await unless_set(stop, fill(deps))
                if not stop.is_set():
                    await run(deps, options, leases, KubeTaints(cluster), stop=stop, ready=ready)


@asynccontextmanager
async def _answering(
    options: Options, contact: ApiContact, metrics: Metrics, ready: asyncio.Event
) -> AsyncIterator[None]:
    """One that waits for the lease answers, too; a port that is taken is found before that."""
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
    """The first process of a container has no default for SIGTERM: without this it lives on."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def _killed_if_late(stop: asyncio.Event) -> None:
    """An operator that has lost its lease must not live on, whatever keeps it from its end."""
    await stop.wait()
    await asyncio.sleep(END_SECONDS)
    logger.error("the operator has not come to its end in time, it is killed")
    os._exit(1)


@asynccontextmanager
async def leading(
    leases: Leases, options: Options, *, clock: Clock, stop: asyncio.Event
) -> AsyncIterator[Leadership | None]:
    """Lead inside, if there is an election; the lease is renewed until all work has stopped."""
    if not options.leader_elect:
        yield None
        return
    leadership, background = (
        Leadership(leases, clock=clock, identity=options.name),
        Background(stop),
    )
    try:
        await unless_set(stop, leadership.acquire())
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
    """The ways to change anything, which are closed to one that leads no more."""
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
    """Run kopf and all that runs beside it. ready: set once kopf watches."""
    registry = kopf.OperatorRegistry()
    kopf.on.startup(registry=registry)(configure)
    kopf.on.login(registry=registry)(login)
    loops, background = Loops(deps, ProcessLifetime(stop)), Background(stop)
    register(registry, deps, loops)
    background.keep(deps.agent_poller.run, name="fleet")
    background.keep(partial(_relist, deps, loops, stop), name="relist")
    background.keep(partial(_keep_pools, deps), name="pools")
    background.keep(NodeWatch(deps, heartbeats).run, name="node watch")
    background.keep(partial(_keep_taints, deps.cache, taints), name="taints")

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


def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """Choose the cluster as transship.kube.transport does."""
    if os.environ.get("KUBECONFIG"):
        return kopf.login_with_kubeconfig(**kwargs)
    found = kopf.login_with_service_account(**kwargs)
    if found is None:
        return kopf.login_with_kubeconfig(**kwargs)
    # kopf's is a name: the cluster's DNS may be down
    return replace(found, server=_in_cluster() or found.server)


def _in_cluster() -> str | None:
    """The API server's URL, as the kubelet tells it to each container."""
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        return None
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


async def fill(deps: Deps) -> None:
    """Know everything before anything is decided: a loop must not take a late list for a lack."""
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
        known = deps.cache.uids(model)
        deps.cache.keep_only(model, await deps.cluster.listing(model), instead_of=known)


async def _relist(deps: Deps, loops: Loops, stop: asyncio.Event) -> None:
    """Make up for what a broken watch missed; end the process when kopf no longer watches at all.

    A watch of kopf's that ends is not begun again (nolar/kopf#1276). New placements are therefore
    taken on by kopf's events alone: that they are not tells of such a watch.
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
        if unseen := deps.cache.without_loop(at=now, with_loop=loops.with_loop):
            logger.bind(placements=unseen).error("new placements are not seen any more, ending")
            stop.set()


async def _keep_taints(cache: ResourceCache, taints: Taints) -> None:
    """As with our own kinds: events are fast, and a list makes up for those that were missed."""
    while True:
        try:
            cache.put_out_of_service(await taints.out_of_service())
        except TransshipError as e:
            logger.bind(error=str(e)).warning("the nodes were not listed")
        await asyncio.sleep(RELIST_SECONDS)


async def _keep_pools(deps: Deps) -> None:
    changed = deps.cache.wake_of(POOLS)
    while True:
        changed.clear()
        try:
            await deps.addresses.update_sizes(now=deps.clock.now())
        except TransshipError as e:
            logger.bind(error=str(e)).warning("the address pools were not looked at")
        await wait_for_any(changed, seconds=RELIST_SECONDS)
