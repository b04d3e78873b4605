"""The composition of the agent: every part is made here once and passed to the parts that use it.

The order of the start matters. The agent loads the journal and recovers its migrations before
anything else may change a container, and only then serves requests. A stop changes no container.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial

from aiohttp import web
from loguru import logger

from transship.agent.containers.deps import SupervisorDeps
from transship.agent.containers.instances import NodeInstances, make_prober
from transship.agent.containers.node_containers import NodeContainers
from transship.agent.http.access_control import Guard
from transship.agent.http.handlers import HttpDeps
from transship.agent.http.log_stream import LogSource
from transship.agent.http.metrics import Metrics
from transship.agent.http.routes import make_app
from transship.agent.journal.store import Journal
from transship.agent.migration.bundles import NodeBundles
from transship.agent.migration.container_network import NodeMigrationNetwork
from transship.agent.migration.handover_queue import HandoverQueue
from transship.agent.migration.prediction import Predictions
from transship.agent.migration.source.checkpoints import NodeCheckpoints
from transship.agent.migration.source.cpu_throttle import CpuThrottle
from transship.agent.migration.source.handover_stats import HandoverStats
from transship.agent.migration.source.memory_transfer import NodeMemoryTransfer
from transship.agent.migration.source.source import Source, SourceDeps
from transship.agent.migration.target.restores import NodeRestores, PageServerTls
from transship.agent.migration.target.target import Target, TargetDeps
from transship.agent.node import health
from transship.agent.node.credentials import Credentials
from transship.agent.node.facts import NodeFacts, read_boot_id
from transship.agent.node.garbage_collection import GarbageCollector, NodeLeftovers
from transship.agent.node.network_resync import NetworkResync
from transship.agent.node.registration import KubeCluster, Registration
from transship.agent.node.stale_routes import StaleRoutes
from transship.agent.settings import Settings
from transship.agentapi.client.peer import PeerClient
from transship.agentapi.paths import STREAM_PORT
from transship.common.clock import Clock, SystemClock
from transship.common.tasks import Background, Tasks, Work, restart_on_failure
from transship.criu import worker as criu
from transship.network import ContainerNetwork
from transship.runtime.containers import Runtime
from transship.runtime.image_store import ImageStore
from transship.streams import link_rate
from transship.streams.connection import StreamKind, StreamServer

ORPHANS_SECONDS = 10.0
# for replies under way; a handover continues from the journal at the next start
SHUTDOWN_SECONDS = 5.0


class Agent:
    """All parts of one agent."""

    def __init__(
        self, settings: Settings, *, stop: asyncio.Event, clock: Clock | None = None
    ) -> None:
        """stop: ends the process. The agent sets it when a background task has failed."""
        self._settings = settings
        self._background, self._beside = Background(stop), Tasks()
        self._clock = clock or SystemClock()
        layout = settings.layout
        for folder in (layout.state_dir, layout.runtime_dir):
            folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        self._tls = Credentials(settings.tls_files)
        self.journal = Journal(
            layout.state_dir / "journal",
            boot=read_boot_id(),
            node=settings.identity.node,
            clock=self._clock,
        )
        images = ImageStore(layout.image_store, insecure_registries=settings.insecure_registries)
        self.runtime = Runtime(layout, images=images)
        self.network = ContainerNetwork(settings.underlay, runtime_dir=layout.runtime_dir)
        self.instances = NodeInstances(self.runtime, self.network)
        self.containers = NodeContainers(
            SupervisorDeps(self.journal, self.instances, self._clock, make_prober(self.runtime))
        )
        self.facts = NodeFacts(
            settings.identity,
            state_dir=layout.state_dir,
            addresses=lambda: tuple(map(str, self.network.addresses)),
            containers=lambda: len(self.journal.all()),
        )
        self.cpu_throttle = CpuThrottle(layout)
        self.garbage_collector = GarbageCollector(
            NodeLeftovers(self.instances), journal=self.journal, clock=self._clock
        )
        self.facts.leftovers = self.garbage_collector.report
        self.facts.quarantined = self.journal.report
        self._peers = PeerClient(self._tls.client)
        self.source, self.target = self._roles()
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Recover what the journal says, then serve requests."""
        self.journal.load()
        await asyncio.to_thread(self.network.prepare_node)
        # the CRIU of a killed agent still undoes its dump, and freezes the container at the end
        await criu.orphans_ended(timeout_seconds=ORPHANS_SECONDS)
        self.cpu_throttle.release_all()
        await self.source.recover()  # first: clients wait for frozen containers
        await self.target.recover()
        await criu.warm()
        self.containers.begin()
        self._keep(self._watch_exits, name="exits")
        self._keep(self.garbage_collector.run, name="garbage collection")
        self._keep(self.containers.migratability_scan.run, name="migratability scan")
        stale_routes = StaleRoutes(self.network, journal=self.journal, clock=self._clock)
        self._keep(stale_routes.run, name="stale routes")
        self._keep(NetworkResync(self.network).run, name="network resync")
        await self._listen()
        self._register()
        logger.bind(node=self._settings.identity.node, containers=len(self.journal.all())).info(
            "agent serves"
        )

    async def stop(self) -> None:
        """End all tasks and connections; containers run on."""
        await self.source.close()  # first: a rollback needs the network
        await self._background.close()
        await self._beside.close()
        await self._stack.aclose()
        await self.containers.close()
        await self._peers.close()
        self.network.close()
        logger.info("agent stopped, containers run on")

    def raise_failure(self) -> None:
        """Raise TaskEnded if a background task has failed: see Background."""
        self._background.raise_failure()

    def _roles(self) -> tuple[Source, Target]:
        journal, runtime, peers, clock = self.journal, self.runtime, self._peers, self._clock
        settings = self._settings
        page_server_tls = PageServerTls(settings.identity.address, settings.tls_files)
        restores = NodeRestores(runtime, page_server_tls)
        memory = NodeMemoryTransfer(runtime.layout, self._tls.client)
        checkpoints = NodeCheckpoints(runtime.layout, memory=memory, restores=restores)
        bundles = NodeBundles(runtime)
        handover_stats = HandoverStats()
        self.predictions = Predictions(
            journal,
            bundles=bundles,
            processes=memory.processes,
            tracker=memory.tracker,
            streams=self._tls.client,
            handover_stats=handover_stats,
        )
        network = NodeMigrationNetwork(self.network)
        source = Source(
            SourceDeps(
                journal=journal,
                checkpoints=checkpoints,
                memory=memory,
                bundles=bundles,
                network=network,
                residents=self.containers,
                peers=peers,
                streams=self._tls.client,
                clock=clock,
                cpu_throttle=self.cpu_throttle,
                handover_stats=handover_stats,
                handover_queue=HandoverQueue(settings.handovers_at_once),
                end_probe=self.predictions.end,
            )
        )
        target = Target(
            TargetDeps(
                journal=journal,
                restores=restores,
                bundles=bundles,
                network=network,
                residents=self.containers,
                peers=peers,
                clock=clock,
                vacate=source.vacate,
            )
        )
        return source, target

    async def _listen(self) -> None:
        identity = self._settings.identity
        app = make_app(self._http_deps())
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, identity.address, identity.port, ssl_context=self._tls.server)
        await site.start()
        streams = StreamServer(
            {StreamKind.FILES: self.target.receive_files, StreamKind.RATE: link_rate.serve}
        )
        await streams.start(identity.address, port=STREAM_PORT, context=self._tls.server)
        self._stack.push_async_callback(streams.close)

    def _http_deps(self) -> HttpDeps:
        layout, journal = self._settings.layout, self.journal
        metrics = Metrics(reports=self.containers.reports, capacity=self.facts.capacity)
        return HttpDeps(
            containers=self.containers,
            source=self.source,
            target=self.target,
            predict=self.predictions.predict,
            facts=self.facts,
            logs=LogSource(path=layout.log, held=lambda name: journal.get(name) is not None),
            metrics=metrics.text,
            guard=Guard(journal),
        )

    def _register(self) -> None:
        settings, layout = self._settings, self._settings.layout
        cluster = KubeCluster(settings.identity.node, kubeconfig=settings.kubeconfig)
        self._stack.push_async_callback(cluster.close)
        read_health = partial(
            health.read,
            self.journal,
            state_dir=layout.state_dir,
            certificate=settings.certificate,
        )
        registration = Registration(
            cluster, facts=self.facts, clock=self._clock, read_health=read_health
        )
        self._keep(self._tls.keep_fresh, name="credentials")
        self._keep(registration.run, name="registration")
        learn = partial(self.facts.learn, layout.runtime_dir, changed=registration.changed)
        _ = self._beside.begin(restart_on_failure(learn, name="facts"), name="facts")

    async def _watch_exits(self) -> None:
        async for container_exit in self.runtime.watch_exits():
            self.containers.on_exit(container_exit.container_id)

    def _keep(self, work: Work, *, name: str) -> None:
        """Run it for ever, again after an unexpected error: an agent that ends breaks its moves."""
        self._background.keep(partial(restart_on_failure, work, name=name), name=name)
