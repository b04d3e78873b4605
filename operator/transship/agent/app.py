"""The agent put together: every part is made here, once, and handed to those who use it.

The order of the start matters: the journal is read and obeyed before anything else may change a
container, and only then are calls taken. A stop leaves containers as they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aiohttp import web
from loguru import logger

from transship.agent import health
from transship.agent.access import Guard
from transship.agent.brakes import Brakes
from transship.agent.bundles import NodeBundles
from transship.agent.cluster import KubeCluster
from transship.agent.containers import Containers
from transship.agent.copies import NodeCopies, PageTls
from transship.agent.credentials import Credentials
from transship.agent.experience import Experience
from transship.agent.facts import Identity, NodeFacts, read_boot_id
from transship.agent.forecasts import Forecasts
from transship.agent.forwards import Forwards
from transship.agent.instances import ContainerExecutor, Instances
from transship.agent.janitor import Janitor
from transship.agent.journal import Journal
from transship.agent.leftovers import NodePremises
from transship.agent.logs import LogSource
from transship.agent.machine import MakeProber, Tools
from transship.agent.metrics import Metrics
from transship.agent.peers import PeerClient
from transship.agent.probes import Prober
from transship.agent.registration import Registration
from transship.agent.server import Service, make_app
from transship.agent.slots import HANDOVERS_AT_ONCE, Slots
from transship.agent.source import Source, SourceParts
from transship.agent.target import Target, TargetParts
from transship.agent.upkeep import Upkeep
from transship.agent.wires import NodeWires
from transship.common.clock import Clock, SystemClock
from transship.common.tasks import Background, Tasks, Work, keep_at
from transship.common.tls import TlsFiles
from transship.network import ContainerNetwork
from transship.protocol.containers import ContainerOrder, ProbeState
from transship.protocol.paths import STREAM_PORT
from transship.runtime import criu
from transship.runtime.containers import Runtime
from transship.runtime.images import ImageStore
from transship.runtime.layout import Layout
from transship.transfer import link_rate
from transship.transfer.streams import StreamKind, StreamServer

ORPHANS_SECONDS = 10.0
SHUTDOWN_SECONDS = 5.0  # for replies under way; a handover is obeyed from the journal afterwards
SELF_TEST_AGAIN_SECONDS = 300.0


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    identity: Identity
    underlay: str
    layout: Layout
    kubeconfig: Path | None
    authority: Path
    certificate: Path
    key: Path
    insecure_registries: tuple[str, ...] = ()
    handovers_at_once: int = HANDOVERS_AT_ONCE


class Agent:
    """All parts of one agent."""

    def __init__(
        self, settings: Settings, *, stop: asyncio.Event, clock: Clock | None = None
    ) -> None:
        """stop: what ends the process; set when a task that lives as long as it has ended."""
        self._settings = settings
        self._background, self._beside = Background(stop), Tasks()
        self._clock = clock or SystemClock()
        layout = settings.layout
        for folder in (layout.state_dir, layout.runtime_dir):
            folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        self._tls = Credentials(TlsFiles(settings.authority, settings.certificate, settings.key))
        self.journal = Journal(
            layout.state_dir / "journal",
            boot=read_boot_id(),
            node=settings.identity.node,
            clock=self._clock,
        )
        images = ImageStore(layout.image_store, insecure_registries=settings.insecure_registries)
        self.runtime = Runtime(layout, images=images)
        self.network = ContainerNetwork(settings.underlay, runtime_dir=layout.runtime_dir)
        self.instances = Instances(self.runtime, self.network)
        self.containers = Containers(
            Tools(self.journal, self.instances, self._clock, _make_prober(self.runtime))
        )
        self.facts = NodeFacts(
            settings.identity, state_dir=layout.state_dir,
            addresses=lambda: tuple(map(str, self.network.addresses)),
            containers=lambda: len(self.journal.all()),
        )  # fmt: skip
        self.brakes = Brakes(layout)
        self.janitor = Janitor(
            NodePremises(self.instances), journal=self.journal, clock=self._clock
        )
        self.facts.leftovers, self.facts.quarantined = self.janitor.report, self.journal.report
        self._peers = PeerClient(self._tls.client)
        self.source, self.target = self._roles()
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Obey the journal, then take calls."""
        self.journal.load()
        await asyncio.to_thread(self.network.prepare_node)
        # the CRIU of an agent that was killed undoes its dump, and freezes the container at its end
        await criu.orphans_ended(timeout_seconds=ORPHANS_SECONDS)
        self.brakes.release_all()
        await self.source.recover()  # first: somebody waits for what is frozen
        await self.target.recover()
        await criu.warm()
        self.containers.begin()
        self._keep(self._watch_exits, name="exits")
        self._keep(self.janitor.run, name="janitor")
        self._keep(self.containers.lookout.run, name="lookout")
        forwards = Forwards(self.network, journal=self.journal, clock=self._clock)
        self._keep(forwards.run, name="forwards")
        self._keep(Upkeep(self.network).run, name="upkeep")
        await self._listen()
        self._register()
        logger.bind(node=self._settings.identity.node, containers=len(self.journal.all())).info(
            "agent serves"
        )

    async def stop(self) -> None:
        """Let go of everything; containers run on."""
        await self.source.close()  # first: a way back needs the network
        await self._background.close()
        await self._beside.close()
        await self._stack.aclose()
        await self.containers.close()
        await self._peers.close()
        self.network.close()
        logger.info("agent stopped, containers run on")

    def raise_failure(self) -> None:
        """Raise TaskEnded where it is not the asked-for end: see Background."""
        self._background.raise_failure()

    def _roles(self) -> tuple[Source, Target]:
        journal, runtime, peers, clock = self.journal, self.runtime, self._peers, self._clock
        settings = self._settings
        files = TlsFiles(settings.authority, settings.certificate, settings.key)
        page_tls = PageTls(settings.identity.address, files, self._tls.client)
        copies, bundles = NodeCopies(runtime, page_tls), NodeBundles(runtime)
        experience = Experience()
        self.forecasts = Forecasts(
            journal, bundles=bundles, processes=copies.processes, tracker=copies.tracker,
            streams=self._tls.client, experience=experience,
        )  # fmt: skip
        wires = NodeWires(self.network)
        source = Source(
            SourceParts(
                journal=journal, copies=copies, bundles=bundles, wires=wires,
                residents=self.containers, peers=peers, streams=self._tls.client, clock=clock,
                brakes=self.brakes, slots=Slots(settings.handovers_at_once),
                experience=experience, end_look=self.forecasts.end,
            )
        )  # fmt: skip
        target = Target(
            TargetParts(
                journal=journal, copies=copies, bundles=bundles, wires=wires,
                residents=self.containers, peers=peers, clock=clock,
                vacate=source.vacate,
            )
        )  # fmt: skip
        return source, target

    async def _listen(self) -> None:
        identity = self._settings.identity
        runner = web.AppRunner(make_app(self._service()), access_log=None,
                               shutdown_timeout=SHUTDOWN_SECONDS)  # fmt: skip
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, identity.address, identity.port, ssl_context=self._tls.server)
        await site.start()
        streams = StreamServer(
            {StreamKind.FILES: self.target.receive_files, StreamKind.RATE: link_rate.serve}
        )
        await streams.start(identity.address, port=STREAM_PORT, context=self._tls.server)
        self._stack.push_async_callback(streams.close)

    def _service(self) -> Service:
        layout, journal = self._settings.layout, self.journal
        metrics = Metrics(reports=self.containers.reports, capacity=self.facts.capacity)
        return Service(
            containers=self.containers,
            source=self.source,
            target=self.target,
            forecasts=self.forecasts,
            facts=self.facts,
            logs=LogSource(path=layout.log, held=lambda name: journal.get(name) is not None),
            metrics=metrics.text,
            guard=Guard(journal),
        )

    def _register(self) -> None:
        node, kubeconfig = self._settings.identity.node, self._settings.kubeconfig
        cluster = KubeCluster(node, kubeconfig=kubeconfig)
        self._stack.push_async_callback(cluster.close)
        settings = self._settings
        look = partial(
            health.look, self.journal,
            state_dir=settings.layout.state_dir, certificate=settings.certificate,
        )  # fmt: skip
        registration = Registration(cluster, facts=self.facts, clock=self._clock, look=look)
        self._keep(self._tls.keep_fresh, name="credentials")
        self._keep(registration.run, name="registration")
        learn = keep_at(partial(self._learn, registration), name="facts")
        _ = self._beside.begin(learn, name="facts")

    async def _watch_exits(self) -> None:
        async for ended in self.runtime.watch_exits():
            self.containers.ended(ended.container_id)

    async def _learn(self, registration: Registration) -> None:
        """The self-test is repeated until it passes: a missing program may have been installed."""
        passed = False
        while not passed:
            await self.facts.gather()
            passed = await self.facts.prove(self._settings.layout.runtime_dir)
            self.facts.complete = True
            registration.changed()
            await asyncio.sleep(0 if passed else SELF_TEST_AGAIN_SECONDS)

    def _keep(self, work: Work, *, name: str) -> None:
        """What fails unexpectedly is begun anew: the end of an agent would break off its moves."""
        self._background.keep(partial(keep_at, work, name=name), name=name)


def _make_prober(runtime: Runtime) -> MakeProber:
    def make(
        order: ContainerOrder,
        *,
        known: ProbeState,
        ran_seconds: float,
        changed: Callable[[], None],
    ) -> Prober:
        return Prober(
            order.container,
            address=order.addresses[0] if order.addresses else None,
            executor=ContainerExecutor(runtime, order.id),
            known=known,
            ran_seconds=ran_seconds,
            changed=changed,
        )

    return make
