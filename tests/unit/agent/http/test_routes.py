from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp
import pytest
from aiohttp import web

from fakes.clock import FakeClock
from fakes.instances import FakeInstances
from fakes.orders import BOOT, ID, MIGRATION, incoming_order, order, peer, running_record
from fakes.roles import FakeSource, FakeTarget, predict
from transship.agent.containers.deps import SupervisorDeps
from transship.agent.containers.node_containers import NodeContainers
from transship.agent.containers.probes import Outcome, Prober
from transship.agent.http.access_control import Guard
from transship.agent.http.handlers import HttpDeps
from transship.agent.http.log_stream import LogSource
from transship.agent.http.metrics import Metrics
from transship.agent.http.routes import ROUTES, make_app
from transship.agent.journal import transitions
from transship.agent.journal.store import Journal
from transship.agent.node.facts import Identity, NodeFacts
from transship.agentapi import paths
from transship.agentapi.client.peer import PeerClient
from transship.agentapi.containers import ContainerOrder, ContainerReport, ProbeState
from transship.agentapi.errors import Failure
from transship.agentapi.message import Message
from transship.agentapi.migrations import (
    LARGEST_RESTORE_BODY_BYTES,
    MemoryEndpoint,
    MemoryLoss,
    MemoryState,
    MigrationReport,
    OutgoingOrder,
    Peer,
    RestoreRequest,
    VerdictNotice,
)
from transship.agentapi.node import NodeReport
from transship.agentapi.predictions import PredictionReply, PredictionRequest
from transship.agentapi.states import SideState, Verdict
from transship.api.placement import Strategy
from transship.common.certificates import Authority, new_authority, write_credentials
from transship.common.errors import Refused, Unreachable
from transship.common.tls import client_context, server_context

AUTHORITY = new_authority("transship")
M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Answer:
    status: int
    text: str

    def read(self, model: type[M]) -> M:
        return model.model_validate_json(self.text)

    @property
    def failure(self) -> Failure:
        return Failure.model_validate_json(self.text)


class Served:
    """A server on loopback, and callers with certificates of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = Journal(folder / "journal", boot=BOOT, clock=FakeClock())
        self.journal.load()
        self.instances = FakeInstances()
        self.containers = NodeContainers(
            SupervisorDeps(self.journal, self.instances, FakeClock(), _no_probes)
        )
        self.source, self.target = FakeSource(self.journal), FakeTarget()
        self.log = folder / "container.log"
        (folder / "ca.crt").write_bytes(AUTHORITY.credentials.certificate)

    async def start(self) -> None:
        facts = NodeFacts(
            Identity("node-a", "127.0.0.1", 7443),
            addresses=tuple,
            state_dir=self.folder,
            containers=lambda: 1,
        )
        deps = HttpDeps(
            containers=self.containers, source=self.source, target=self.target, facts=facts,
            logs=LogSource(path=lambda _: self.log, held=lambda n: self.journal.get(n) is not None),
            metrics=Metrics(reports=self.containers.reports, capacity=facts.capacity).text,
            guard=Guard(self.journal), predict=predict,
        )  # fmt: skip
        self.runner = web.AppRunner(make_app(deps), shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0, ssl_context=self._server_tls())
        await site.start()
        self.port = self.runner.addresses[0][1]

    async def stop(self) -> None:
        await self.containers.close()
        await self.runner.cleanup()

    def context(self, name: str, *, authority: Authority = AUTHORITY) -> ssl.SSLContext:
        file = name.replace(":", "-")
        files = write_credentials(authority.issue(name), self.folder, file)
        return client_context(
            authority=self.folder / "ca.crt", certificate=files.certificate, key=files.key
        )

    async def call(
        self, method: str, path: str, *, caller: str = "transship:operator",
        body: Message | bytes = b"",
    ) -> Answer:  # fmt: skip
        data = body.model_dump_json(by_alias=True).encode() if isinstance(body, Message) else body
        url = f"https://127.0.0.1:{self.port}{path}"
        connector = aiohttp.TCPConnector(ssl=self.context(caller))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, url, data=data, server_hostname="node-a") as reply,
        ):
            return Answer(reply.status, await reply.text())

    @asynccontextmanager
    async def peer_client(self, node: str) -> AsyncIterator[PeerClient]:
        client = PeerClient(self.context(f"transship:agent:{node}"))
        try:
            yield client
        finally:
            await client.close()

    def as_peer(self) -> Peer:
        return Peer(node="node-a", address="127.0.0.1", endpoint=f"https://127.0.0.1:{self.port}")

    def _server_tls(self) -> ssl.SSLContext:
        issued = AUTHORITY.issue_agent("node-a", addresses=["127.0.0.1"])
        files = write_credentials(issued, self.folder, "server")
        return server_context(
            authority=self.folder / "ca.crt", certificate=files.certificate, key=files.key
        )


class NoExecutor:
    async def execute(self, argv: tuple[str, ...], *, timeout_seconds: float) -> Outcome:
        raise AssertionError(argv)


def _no_probes(
    order: ContainerOrder, *, known: ProbeState, ran_seconds: float, changed: Callable[[], None]
) -> Prober:
    return Prober(
        order.container, address=None, executor=NoExecutor(), known=known,
        ran_seconds=ran_seconds, changed=changed,
    )  # fmt: skip


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    made = Served(tmp_path)
    await made.start()
    yield made
    await made.stop()


def path(pattern: str, name: str) -> str:
    return pattern.format(id=name, migration=name)


async def test_the_operator_orders_reads_and_deletes_a_container(served: Served) -> None:
    here = path(paths.CONTAINER, ID)
    ordered = await served.call("PUT", here, body=order())
    assert ordered.status == 202
    assert ordered.read(ContainerReport).id == ID
    assert (await served.call("GET", here)).status == 200
    assert ID in (await served.call("GET", paths.CONTAINERS)).text

    async with asyncio.timeout(2):
        while (await served.call("DELETE", f"{here}?epoch=1")).status != 204:
            pass
    gone = await served.call("GET", here)
    assert (gone.status, gone.failure.reason) == (404, "NotFound")


async def test_a_wrong_field_is_named_and_its_value_is_not_repeated(served: Served) -> None:
    text = order().model_dump_json(by_alias=True).replace('"epoch":1', '"epoch":"hunter2"')
    answer = await served.call("PUT", path(paths.CONTAINER, ID), body=text.encode())
    assert (answer.status, answer.failure.reason) == (400, "InvalidInput")
    assert "epoch" in answer.failure.message
    assert "hunter2" not in answer.failure.message


@pytest.mark.parametrize("name", ["..", "a/b", "Upper", ""])
async def test_an_id_that_could_be_a_path_is_refused(served: Served, name: str) -> None:
    text = order().model_dump_json(by_alias=True).replace(ID, name)
    answer = await served.call("PUT", path(paths.CONTAINER, ID), body=text.encode())
    assert answer.status == 400
    assert answer.failure.message.startswith("reading ContainerOrder: id:")


async def test_path_and_body_have_to_agree(served: Served) -> None:
    answer = await served.call("PUT", path(paths.CONTAINER, "another"), body=order())
    assert answer.status == 400


async def test_a_stale_order_is_a_conflict(served: Served) -> None:
    await served.call("PUT", path(paths.CONTAINER, ID), body=order(epoch=4))
    answer = await served.call("PUT", path(paths.CONTAINER, ID), body=order(epoch=3))
    assert (answer.status, answer.failure.reason) == (409, "StaleEpoch")


@pytest.mark.parametrize("query", ["", "?epoch=0", "?epoch=two"])
async def test_a_deletion_says_which_epoch_it_knows(served: Served, query: str) -> None:
    answer = await served.call("DELETE", path(paths.CONTAINER, ID) + query)
    assert answer.status == 400
    assert "epoch" in answer.failure.message


async def test_an_unknown_path_and_a_wrong_method_get_a_failure_too(
    served: Served,
) -> None:
    assert (await served.call("GET", "/v1/nothing")).failure.reason == "NotFound"
    assert (await served.call("POST", paths.CONTAINERS)).status == 405


async def test_a_client_without_a_certificate_is_refused(served: Served) -> None:
    context = ssl.create_default_context(cafile=str(served.folder / "ca.crt"))
    await expect_refused_connection(served, context)


async def test_a_certificate_of_another_authority_is_refused(served: Served) -> None:
    await expect_refused_connection(
        served, served.context("transship:operator", authority=new_authority("somebody"))
    )


async def expect_refused_connection(served: Served, context: ssl.SSLContext) -> None:
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(connector=connector) as session:
        with pytest.raises((aiohttp.ClientError, OSError)):
            await session.get(
                f"https://127.0.0.1:{served.port}{paths.NODE}", server_hostname="node-a"
            )


FORBIDDEN_TO_AGENTS = [
    ("GET", paths.CONTAINERS), ("PUT", paths.CONTAINER), ("DELETE", paths.CONTAINER),
    ("GET", paths.LOGS), ("POST", paths.PREDICTION), ("GET", paths.NODE),
    ("PUT", paths.OUTGOING), ("PUT", paths.INCOMING),
    ("POST", paths.OUTGOING_ABORT), ("POST", paths.INCOMING_ABORT), ("DELETE", paths.OUTGOING),
    ("GET", paths.METRICS), ("GET", paths.CONTAINER), ("GET", paths.OUTGOING),
    ("DELETE", paths.INCOMING), ("DELETE", paths.INCOMING_MEMORY),
]  # fmt: skip
ALLOWED_TO_A_PEER = [
    ("GET", paths.OUTGOING_VERDICT), ("GET", paths.INCOMING), ("POST", paths.INCOMING_MEMORY),
    ("GET", paths.INCOMING_MEMORY), ("POST", paths.INCOMING_HOLD),
    ("POST", paths.INCOMING_RESTORE), ("POST", paths.INCOMING_VERDICT),
]  # fmt: skip


def test_every_route_is_for_the_operator_alone_or_for_peers_too() -> None:
    assert sorted(FORBIDDEN_TO_AGENTS + ALLOWED_TO_A_PEER) == sorted(
        (route.method, route.path) for route in ROUTES
    )


@pytest.mark.parametrize(("method", "pattern"), ALLOWED_TO_A_PEER)
async def test_the_peer_of_a_migration_may_use_its_routes(
    served: Served, method: str, pattern: str
) -> None:
    served.journal.put(transitions.incoming(None, incoming_order(), boot=BOOT))
    here = path(pattern, MIGRATION)
    answer = await served.call(method, here, caller="transship:agent:node-a")
    assert answer.status != 403
    answer = await served.call(method, here, caller="transship:agent:node-c")
    assert (answer.status, answer.failure.reason) == (403, "Forbidden")


@pytest.mark.parametrize(("method", "pattern"), FORBIDDEN_TO_AGENTS)
async def test_an_agent_may_not_use_the_operators_routes(
    served: Served, method: str, pattern: str
) -> None:
    answer = await served.call(method, path(pattern, ID), caller="transship:agent:node-b")
    assert (answer.status, answer.failure.reason) == (403, "Forbidden")


@pytest.mark.parametrize("caller", ["transship:agent:", "admin", "transship:operator2"])
async def test_a_client_with_another_name_may_use_no_route(served: Served, caller: str) -> None:
    answer = await served.call("GET", path(paths.OUTGOING_VERDICT, MIGRATION), caller=caller)
    assert answer.status == 403


async def test_only_the_peer_of_a_migration_may_take_part_in_it(served: Served) -> None:
    served.journal.put(transitions.incoming(None, incoming_order(), boot=BOOT))
    hold = path(paths.INCOMING_HOLD, MIGRATION)
    assert (await served.call("POST", hold, caller="transship:agent:node-c")).status == 403
    assert served.target.held == set()
    assert (await served.call("POST", hold, caller="transship:agent:node-a")).status == 204
    assert served.target.held == {MIGRATION}


async def test_the_target_asks_the_source_for_its_verdict(served: Served) -> None:
    frozen = transitions.frozen(running_record(), migration=MIGRATION, peer=peer("node-b"))
    served.journal.put(transitions.released(frozen, epoch=2))
    async with served.peer_client("node-b") as client:
        reply = await client.verdict(served.as_peer(), MIGRATION)
    assert (reply.verdict, reply.epoch) == (Verdict.RELEASED, 2)

    async with served.peer_client("node-c") as stranger:
        with pytest.raises(Refused, check=lambda e: e.reason == "Forbidden"):
            await stranger.verdict(served.as_peer(), MIGRATION)


async def test_a_peer_that_is_away_is_named_by_its_side_of_the_migration(served: Served) -> None:
    gone = served.as_peer().model_copy(update={"endpoint": "https://127.0.0.1:1"})
    async with served.peer_client("node-b") as client:
        with pytest.raises(Unreachable, check=lambda e: e.reason == "SourceUnreachable"):
            await client.verdict(gone, MIGRATION)
        with pytest.raises(Unreachable, check=lambda e: e.reason == "TargetUnreachable"):
            await client.hold(gone, MIGRATION)


async def test_a_restore_request_and_its_images_reach_the_target(served: Served) -> None:
    served.journal.put(transitions.incoming(None, incoming_order(), boot=BOOT))
    blocks = [bytes([number]) * 1_000_000 for number in range(3)]
    request = RestoreRequest(image_bytes=5)
    async with served.peer_client("node-a") as client:
        await client.restore(
            served.as_peer(), MIGRATION, request=request, images=body(*blocks), size=3_000_000,
            timeout_seconds=5,
        )  # fmt: skip
    assert served.target.restored == (request, b"".join(blocks))


async def body(*blocks: bytes) -> AsyncIterator[bytes]:
    for block in blocks:
        yield block


async def test_images_beyond_the_limit_are_refused_before_they_are_sent(served: Served) -> None:
    served.journal.put(transitions.incoming(None, incoming_order(), boot=BOOT))
    size = LARGEST_RESTORE_BODY_BYTES + 1
    async with served.peer_client("node-a") as client:
        with pytest.raises(Refused, match="257 MiB, the limit is 256 MiB") as caught:
            await client.restore(
                served.as_peer(), MIGRATION, request=RestoreRequest(), images=body(bytes(1000)),
                size=size, timeout_seconds=5,
            )  # fmt: skip
    assert caught.value.reason == "StateTooLarge"
    assert served.target.restored is None


async def test_a_migration_begins_is_reported_and_forgotten(served: Served) -> None:
    here = path(paths.INCOMING, MIGRATION)
    begun = await served.call("PUT", here, body=incoming_order())
    assert begun.read(MigrationReport).state is SideState.PREPARING
    assert (await served.call("GET", here)).status == 200
    refused = await served.call("POST", path(paths.INCOMING_ABORT, MIGRATION))
    assert refused.failure == Failure(
        reason="AlreadyHere", message="it runs here", hint="move it back"
    )
    notice = VerdictNotice(migration=MIGRATION, verdict=Verdict.RELEASED, epoch=2)
    decided = await served.call("POST", path(paths.INCOMING_VERDICT, MIGRATION), body=notice)
    assert '"Running"' in decided.text
    assert (await served.call("GET", path(paths.OUTGOING, MIGRATION))).status == 404


async def test_the_operator_begins_aborts_and_forgets_a_migration_at_its_source(
    served: Served,
) -> None:
    here = path(paths.OUTGOING, MIGRATION)
    order = OutgoingOrder(
        migration=MIGRATION, container=ID, epoch=1, target=peer(), strategy=Strategy.PRE_COPY
    )
    begun = await served.call("PUT", here, body=order)
    assert begun.read(MigrationReport).state is SideState.COPYING
    assert (await served.call("GET", here)).status == 200

    abort = path(paths.OUTGOING_ABORT, MIGRATION)
    aborted = await served.call("POST", f"{abort}?container={ID}")
    assert aborted.read(MigrationReport).state is SideState.CANCELLED
    assert served.source.aborted == {MIGRATION: ID}

    assert (await served.call("DELETE", f"{here}?gone=node-b&gone=node-c")).status == 204
    assert served.source.forgotten == {MIGRATION: ("node-b", "node-c")}


async def test_the_source_prepares_the_memory_and_asks_whether_it_is_awaited(
    served: Served,
) -> None:
    here = path(paths.INCOMING_MEMORY, MIGRATION)
    assert (await served.call("POST", here)).read(MemoryEndpoint).port == 1
    assert (await served.call("GET", here)).read(MemoryState).awaited


async def test_the_operator_says_that_memory_will_never_come_and_why(served: Served) -> None:
    here = path(paths.INCOMING_MEMORY, MIGRATION)
    assert (await served.call("DELETE", here)).status == 400  # no reason given
    lost = await served.call("DELETE", here, body=MemoryLoss(why="node-a is gone"))
    assert lost.status == 204
    assert served.target.memory_lost == {MIGRATION: "node-a is gone"}
    assert not (await served.call("GET", here)).read(MemoryState).awaited


async def test_the_operator_forgets_a_migration_at_its_target(served: Served) -> None:
    here = path(paths.INCOMING, MIGRATION)
    await served.call("PUT", here, body=incoming_order())
    assert (await served.call("DELETE", here)).status == 204
    assert (await served.call("GET", here)).status == 404


async def test_the_node_and_its_metrics_are_reported(served: Served) -> None:
    served.journal.put(running_record())
    report = (await served.call("GET", paths.NODE)).read(NodeReport)
    assert report.quarantined == ()
    metrics = (await served.call("GET", paths.METRICS)).text
    assert 'transship_containers{state="Running"} 1.0' in metrics
    assert 'transship_container_restarts_total{name="counter",namespace="default"} 0.0' in metrics


LINES = (
    "2026-01-01T00:00:00.000000001+00:00 stdout F one\n"
    "2026-01-01T00:00:01.000000001+00:00 stderr P two \n"
    "2026-01-01T00:00:01.000000002+00:00 stderr F halves\n"
)


async def test_a_log_is_sent_as_the_container_wrote_it(served: Served) -> None:
    served.log.write_text(LINES)
    served.journal.put(running_record())
    here = path(paths.LOGS, ID)
    assert (await served.call("GET", here)).text == "one\ntwo halves\n"
    assert (await served.call("GET", f"{here}?tail=1")).text == "halves\n"
    assert (await served.call("GET", f"{here}?tail=x")).status == 400
    assert (await served.call("GET", path(paths.LOGS, "nobody"))).status == 404


async def test_a_log_is_followed_until_the_container_is_gone(served: Served) -> None:
    served.log.write_text(LINES)
    served.journal.put(running_record())
    following = asyncio.create_task(served.call("GET", f"{path(paths.LOGS, ID)}?follow=true"))
    await asyncio.sleep(0.2)
    with served.log.open("a") as file:
        file.write("2026-01-01T00:00:02.000000001+00:00 stdout F three\n")
    served.journal.remove(ID)
    assert (await following).text == "one\ntwo halves\nthree\n"


async def test_the_operator_requests_a_prediction(served: Served) -> None:
    wish = PredictionRequest(target=peer())
    answer = await served.call("POST", paths.PREDICTION.format(id=ID), body=wish)
    assert answer.status == 200
    assert PredictionReply.model_validate_json(answer.text).choice == f"{ID} to {peer().node}"
