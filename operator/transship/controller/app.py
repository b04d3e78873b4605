"""The operator as a process: composes the parts, leads if it may, runs kopf until told to end."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import kopf
from aiohttp import web
from loguru import logger

from transship.api.migration import ContainerMigration
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement
from transship.common import logs
from transship.common.clock import SystemClock
from transship.common.errors import TransshipError
from transship.common.tls import TlsFiles
from transship.controller.addresses import AddressBook
from transship.controller.agents import AgentClient
from transship.controller.connections import AgentConnections
from transship.controller.deps import Deps
from transship.controller.directory import Directory
from transship.controller.fleet import Fleet
from transship.controller.handlers import POOLS, register
from transship.controller.leadership import Leadership, LeadersTransport
from transship.controller.life import ProcessLife, wait_for_any
from transship.controller.loops import Loops
from transship.controller.metrics import Metrics
from transship.controller.node_watch import NodeWatch
from transship.controller.ports import Heartbeats, Taints
from transship.controller.resolve import Resolver
from transship.controller.settings import configure
from transship.controller.telling import EventTeller, KubeConfigData, KubeTaints
from transship.controller.turns import Turns
from transship.kube.client import KubeClient
from transship.kube.events import EventRecorder
from transship.kube.leases import Leases

RELIST_SECONDS = 60.0  # what a broken watch has missed, above all deletions
STARTUP_RETRY_SECONDS = 1.0


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
    """Run until a signal, or until leadership is lost."""
    clock, stop = SystemClock(), asyncio.Event()
    async with await KubeClient.connect(options.kubeconfig) as client, AsyncExitStack() as stack:
        leases = Leases(client)
        leadership = None
        if options.leader_elect:
            leadership = Leadership(leases, clock=clock, identity=options.name)
        if leadership is not None:
            async with answering(options.health_port):
                await leadership.acquire()
            keeping = asyncio.create_task(_stop_after(leadership.keep(), stop))
            stack.callback(keeping.cancel)
        cluster, make = client, partial(AgentClient)
        if leadership is not None:
            cluster = KubeClient(LeadersTransport(client.transport, leadership))
            make = partial(AgentClient, permit=leadership.require)
        connections = AgentConnections(options.tls, make=make)
        try:
            deps = compose(cluster, connections, clock=clock, name=options.name)
            await fill(deps)
            await _run(deps, options, leases, KubeTaints(client), stop)
        finally:
            await connections.close()


def compose(
    client: KubeClient, connections: AgentConnections, *, clock: SystemClock, name: str
) -> Deps:
    events = EventRecorder(client, component="transship-operator", instance=name)
    directory = Directory()
    return Deps(
        cluster=client,
        directory=directory,
        fleet=Fleet(directory, connections, clock=clock),
        addresses=AddressBook(client),
        resolver=Resolver(KubeConfigData(client)),
        recorder=EventTeller(events),
        metrics=Metrics(),
        turns=Turns(directory),
        clock=clock,
    )


async def _run(
    deps: Deps, options: Options, heartbeats: Heartbeats, taints: Taints, stop: asyncio.Event
) -> None:
    registry = kopf.OperatorRegistry()
    kopf.on.startup(registry=registry)(configure)
    kopf.on.login(registry=registry)(_login)
    loops = Loops(deps, ProcessLife(stop))
    register(registry, deps, loops)
    watch = NodeWatch(deps, heartbeats)
    beside = [deps.fleet.run(), _relist(deps, loops, stop), _keep_pools(deps), watch.run()]
    beside.append(_keep_taints(deps.directory, taints))
    if options.metrics_port is not None:
        beside.append(_serve_metrics(deps.metrics, options.metrics_port))
    tasks = [asyncio.create_task(each) for each in beside]

    # at its end kopf waits 5 s for tasks that go on, its own waiter for the stop flag among them
    @kopf.on.cleanup(registry=registry)
    async def end_others(**_: Any) -> None:
        stop.set()
        for task in tasks:
            task.cancel()

    logger.info("operator runs")
    try:
        await kopf.operator(
            registry=registry,
            clusterwide=True,
            standalone=True,
            stop_flag=stop,
            liveness_endpoint=_health_url(options.health_port),
        )
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(loops.end(), *tasks, return_exceptions=True)


@asynccontextmanager
async def answering(port: int | None) -> AsyncIterator[None]:
    """Answer at the place where kopf does later: one that waits for the lease is well, too."""
    if port is None:
        yield
        return

    async def well(_: web.Request) -> web.Response:
        return web.json_response({})

    app = web.Application()
    app.add_routes([web.get("/healthz", well)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        yield
    finally:
        await runner.cleanup()


def _health_url(port: int | None) -> str | None:
    return None if port is None else f"http://0.0.0.0:{port}/healthz"


def _login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    if os.environ.get("KUBECONFIG"):
        return kopf.login_with_kubeconfig(**kwargs)
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)


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
        known = deps.directory.uids(model)
        deps.directory.keep_only(model, await deps.cluster.listing(model), instead_of=known)


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
        if unseen := deps.directory.unattended(at=now, attended=loops.attended):
            logger.bind(placements=unseen).error("new placements are not seen any more, ending")
            stop.set()


async def _keep_taints(directory: Directory, taints: Taints) -> None:
    """As with our own kinds: events are fast, and a list makes up for those that were missed."""
    while True:
        try:
            directory.put_out_of_service(await taints.out_of_service())
        except TransshipError as e:
            logger.bind(error=str(e)).warning("the nodes were not listed")
        await asyncio.sleep(RELIST_SECONDS)


async def _keep_pools(deps: Deps) -> None:
    changed = deps.directory.wake_of(POOLS)
    while True:
        changed.clear()
        try:
            await deps.addresses.tell_sizes(now=deps.clock.now())
        except TransshipError as e:
            logger.bind(error=str(e)).warning("the address pools were not looked at")
        await wait_for_any(changed, seconds=RELIST_SECONDS)


async def _stop_after(task: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
    await task
    stop.set()


async def _serve_metrics(metrics: Metrics, port: int) -> None:
    async def text(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), content_type="text/plain", charset="utf-8")

    app = web.Application()
    app.add_routes([web.get("/metrics", text)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
