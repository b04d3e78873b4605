"""What each route does: read the request, call the object that does the work, write its reply."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from transship.agent.containers.node_containers import NodeContainers
from transship.agent.http.access_control import Guard
from transship.agent.http.log_stream import LogSource, stream_log
from transship.agent.http.replies import (
    json_reply,
    no_content,
    parse,
    query_number,
    read_body,
    require_same,
)
from transship.agent.migration.roles import SourceRole, TargetRole
from transship.agent.node.facts import NodeFacts
from transship.agentapi import paths
from transship.agentapi.containers import ContainerOrder
from transship.agentapi.migrations import (
    LARGEST_RESTORE_BODY_BYTES,
    IncomingOrder,
    MemoryLoss,
    MigrationReport,
    OutgoingOrder,
    RestoreRequest,
    VerdictNotice,
)
from transship.agentapi.predictions import PredictionReply, PredictionRequest
from transship.common.errors import NotFound
from transship.criu.images import archive


@dataclass(frozen=True)
class HttpDeps:
    """The objects that the handlers call."""

    containers: NodeContainers
    source: SourceRole
    target: TargetRole
    predict: Callable[[str, PredictionRequest], Awaitable[PredictionReply]]
    facts: NodeFacts
    logs: LogSource
    metrics: Callable[[], bytes]
    guard: Guard


# The node.


async def get_node(deps: HttpDeps, _: web.Request) -> web.StreamResponse:
    return json_reply(deps.facts.report())


async def get_metrics(deps: HttpDeps, _: web.Request) -> web.StreamResponse:
    return web.Response(body=deps.metrics(), content_type="text/plain", charset="utf-8")


# Its containers.


async def list_containers(deps: HttpDeps, _: web.Request) -> web.StreamResponse:
    return json_reply(deps.containers.reports())


async def get_container(deps: HttpDeps, request: web.Request) -> web.StreamResponse:
    return json_reply(deps.containers.report(_container(request)))


async def apply_container(deps: HttpDeps, request: web.Request) -> web.StreamResponse:
    order = await read_body(request, ContainerOrder)
    require_same("id", in_body=order.id, in_path=_container(request))
    return json_reply(deps.containers.apply(order), status=202)


async def delete_container(deps: HttpDeps, request: web.Request) -> web.StreamResponse:
    epoch = query_number(request, "epoch", least=1)
    report = deps.containers.delete(_container(request), epoch=epoch)
    return no_content() if report is None else json_reply(report, status=202)


async def get_logs(deps: HttpDeps, request: web.Request) -> web.StreamResponse:
    deps.containers.report(_container(request))  # raises NotFound before the reply begins
    return await stream_log(request, deps.logs)


async def predict_migration(deps: HttpDeps, request: web.Request) -> web.StreamResponse:
    container, wish = _container(request), await read_body(request, PredictionRequest)
    prediction = await deps.predict(container, wish)
    await deps.containers.find_obstacles(container)  # for the next report
    return json_reply(prediction)


# Migrations away from this node.


async def begin_outgoing(deps: HttpDeps, request: web.Request) -> web.StreamResponse:
    order = await read_body(request, OutgoingOrder)
    require_same("migration", in_body=order.migration, in_path=_migration(request))
    return json_reply(await deps.source.begin(order), status=202)


async def get_outgoing(deps: HttpDeps, request: web.Request) -> web.StreamResponse:
    return json_reply(_known(deps.source.report(_migration(request)), request))


async def abort_outgoing(deps: HttpDeps, request: web.Request) -> web.StreamResponse:
    container = request.query.get("container", "")
    return json_reply(await deps.source.abort(_migration(request), container=container))


async def get_verdict(deps: HttpDeps, request: web.Request) -> web.StreamResponse:
    return json_reply(deps.source.verdict(_migration(request)))


async def forget_outgoing(deps: HttpDeps, request: web.Request) -> web.StreamResponse:
    gone = request.query.getall("gone", [])
    await deps.source.forget(_migration(request), gone=gone)
    return no_content()


# Migrations to this node.


async def begin_incoming(deps: HttpDeps, request: web.Request) -> web.StreamResponse:
    order = await read_body(request, IncomingOrder)
    require_same("migration", in_body=order.migration, in_path=_migration(request))
    return json_reply(await deps.target.begin(order), status=202)


async def get_incoming(deps: HttpDeps, request: web.Request) -> web.StreamResponse:
    return json_reply(_known(deps.target.report(_migration(request)), request))


async def abort_incoming(deps: HttpDeps, request: web.Request) -> web.StreamResponse:
    return json_reply(await deps.target.abort(_migration(request)))


async def forget_incoming(deps: HttpDeps, request: web.Request) -> web.StreamResponse:
    await deps.target.forget(_migration(request))
    return no_content()


async def prepare_memory(deps: HttpDeps, request: web.Request) -> web.StreamResponse:
    return json_reply(await deps.target.memory(_migration(request)))


async def get_memory_state(deps: HttpDeps, request: web.Request) -> web.StreamResponse:
    return json_reply(deps.target.memory_state(_migration(request)))


async def lose_memory(deps: HttpDeps, request: web.Request) -> web.StreamResponse:
    loss = await read_body(request, MemoryLoss)
    await deps.target.lose_memory(_migration(request), loss)
    return no_content()


async def hold_packets(deps: HttpDeps, request: web.Request) -> web.StreamResponse:
    await deps.target.hold(_migration(request))
    return no_content()


async def restore(deps: HttpDeps, request: web.Request) -> web.StreamResponse:
    header = request.headers.get(paths.RESTORE_HEADER, "{}")
    restore_request = parse(header.encode(), RestoreRequest)
    size = request.content_length or 0
    if size > LARGEST_RESTORE_BODY_BYTES:
        raise archive.too_large(size, most=LARGEST_RESTORE_BODY_BYTES)
    body = request.content.iter_any()
    return json_reply(await deps.target.restore(_migration(request), restore_request, body=body))


async def act_on_verdict(deps: HttpDeps, request: web.Request) -> web.StreamResponse:
    notice = await read_body(request, VerdictNotice)
    require_same("migration", in_body=notice.migration, in_path=_migration(request))
    return json_reply(await deps.target.decide(notice))


def _container(request: web.Request) -> str:
    return request.match_info["id"]


def _migration(request: web.Request) -> str:
    return request.match_info["migration"]


def _known(report: MigrationReport | None, request: web.Request) -> MigrationReport:
    if report is None:
        raise NotFound(f"migration {_migration(request)} is not known here")
    return report
