"""The agent's HTTP service: routes of the protocol to the objects that do the work.

Every reply that is not 2xx has a Failure as its body. Nothing is decided here but who may call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from loguru import logger
from pydantic import ValidationError

from transship.agent.containers.node_containers import NodeContainers
from transship.agent.http.access_control import Guard
from transship.agent.http.log_stream import LogSource, stream_log
from transship.agent.migration.roles import SourceRole, TargetRole
from transship.agentapi import paths
from transship.agentapi.containers import ContainerOrder
from transship.agentapi.errors import Failure, failure_of, status_of
from transship.agentapi.message import Message
from transship.agentapi.migrations import (
    LARGEST_RESTORE_BODY_BYTES,
    IncomingOrder,
    MemoryLoss,
    MigrationReport,
    OutgoingOrder,
    RestoreRequest,
    VerdictNotice,
)
from transship.agentapi.node import NodeReport
from transship.agentapi.predictions import Forecast, PredictionRequest
from transship.api.reasons import Reason
from transship.common.errors import (
    InvalidInput,
    NotFound,
    TransshipError,
)
from transship.criu.images import archive as images

LARGEST_ORDER_BYTES = 256 << 20  # they carry Secrets of 1 MiB each

M = TypeVar("M", bound=Message)


class Facts(Protocol):
    def report(self) -> NodeReport:
        """The node's facts as of now."""
        ...


class ForecastRole(Protocol):
    async def forecast(self, container: str, order: PredictionRequest) -> Forecast:
        """What a move would be like."""
        ...


@dataclass(frozen=True)
class HttpDeps:
    """What the routes lead to."""

    containers: NodeContainers
    source: SourceRole
    target: TargetRole
    predictions: ForecastRole
    facts: Facts
    logs: LogSource
    metrics: Callable[[], bytes]
    guard: Guard


def make_app(deps: HttpDeps) -> web.Application:
    """The application; TLS is the listener's."""
    app = web.Application(
        middlewares=[_failures, _guarded(deps.guard)], client_max_size=LARGEST_ORDER_BYTES
    )
    app.add_routes(
        [*_node_routes(deps), *_container_routes(deps),
         *_outgoing_routes(deps.source), *_incoming_routes(deps.target)]
    )  # fmt: skip
    return app


def _node_routes(deps: HttpDeps) -> list[web.RouteDef]:
    async def node(_: web.Request) -> web.Response:
        return _reply(deps.facts.report())

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=deps.metrics(), content_type="text/plain", charset="utf-8")

    return [web.get(paths.NODE, node), web.get(paths.METRICS, metrics)]


def _container_routes(deps: HttpDeps) -> list[web.RouteDef]:
    containers = deps.containers

    async def listed(_: web.Request) -> web.Response:
        return _reply(containers.reports())

    async def read(request: web.Request) -> web.Response:
        return _reply(containers.report(request.match_info["id"]))

    async def apply(request: web.Request) -> web.Response:
        order = await _body(request, ContainerOrder)
        _same("id", order.id, request.match_info["id"])
        return _reply(containers.apply(order), status=202)

    async def delete(request: web.Request) -> web.Response:
        epoch = _number(request, "epoch", least=1)
        report = containers.delete(request.match_info["id"], epoch=epoch)
        return web.Response(status=204) if report is None else _reply(report, status=202)

    async def forecast(request: web.Request) -> web.Response:
        order = await _body(request, PredictionRequest)
        container = request.match_info["id"]
        found = await deps.predictions.forecast(container, order)
        await containers.find_obstacles(container)  # for the report that is asked for next
        return _reply(found)

    async def logs(request: web.Request) -> web.StreamResponse:
        containers.report(request.match_info["id"])  # NotFound, before a reply has begun
        return await stream_log(request, deps.logs)

    return [
        web.get(paths.CONTAINERS, listed),
        web.get(paths.CONTAINER, read),
        web.put(paths.CONTAINER, apply),
        web.delete(paths.CONTAINER, delete),
        web.get(paths.LOGS, logs),
        web.post(paths.PREDICTION, forecast),
    ]


def _outgoing_routes(source: SourceRole) -> list[web.RouteDef]:
    async def begin(request: web.Request) -> web.Response:
        order = await _body(request, OutgoingOrder)
        _same("migration", order.migration, _migration(request))
        return _reply(await source.begin(order), status=202)

    async def read(request: web.Request) -> web.Response:
        return _reply(_known(source.report(_migration(request)), request))

    async def abort(request: web.Request) -> web.Response:
        container = request.query.get("container", "")
        return _reply(await source.abort(_migration(request), container=container))

    async def verdict(request: web.Request) -> web.Response:
        return _reply(source.verdict(_migration(request)))

    async def forget(request: web.Request) -> web.Response:
        gone = request.query.getall("gone", [])
        await source.forget(_migration(request), gone=gone)
        return web.Response(status=204)

    return [
        web.put(paths.OUTGOING, begin),
        web.get(paths.OUTGOING, read),
        web.delete(paths.OUTGOING, forget),
        web.post(paths.OUTGOING_ABORT, abort),
        web.get(paths.OUTGOING_VERDICT, verdict),
    ]


def _incoming_routes(target: TargetRole) -> list[web.RouteDef]:
    async def begin(request: web.Request) -> web.Response:
        order = await _body(request, IncomingOrder)
        _same("migration", order.migration, _migration(request))
        return _reply(await target.begin(order), status=202)

    async def read(request: web.Request) -> web.Response:
        return _reply(_known(target.report(_migration(request)), request))

    async def abort(request: web.Request) -> web.Response:
        return _reply(await target.abort(_migration(request)))

    async def forget(request: web.Request) -> web.Response:
        await target.forget(_migration(request))
        return web.Response(status=204)

    return [
        web.put(paths.INCOMING, begin),
        web.get(paths.INCOMING, read),
        web.delete(paths.INCOMING, forget),
        web.post(paths.INCOMING_ABORT, abort),
        *_handover_routes(target),
    ]


def _handover_routes(target: TargetRole) -> list[web.RouteDef]:
    async def memory(request: web.Request) -> web.Response:
        return _reply(await target.memory(_migration(request)))

    async def memory_state(request: web.Request) -> web.Response:
        return _reply(target.memory_state(_migration(request)))

    async def lose_memory(request: web.Request) -> web.Response:
        loss = await _body(request, MemoryLoss)
        await target.lose_memory(_migration(request), loss)
        return web.Response(status=204)

    async def hold(request: web.Request) -> web.Response:
        await target.hold(_migration(request))
        return web.Response(status=204)

    async def restore(request: web.Request) -> web.Response:
        header = request.headers.get(paths.RESTORE_HEADER, "{}")
        wanted = _parse(header.encode(), RestoreRequest)
        if (request.content_length or 0) > LARGEST_RESTORE_BODY_BYTES:
            raise images.too_large(request.content_length or 0, most=LARGEST_RESTORE_BODY_BYTES)
        body = request.content.iter_any()
        return _reply(await target.restore(_migration(request), wanted, body=body))

    async def decide(request: web.Request) -> web.Response:
        notice = await _body(request, VerdictNotice)
        _same("migration", notice.migration, _migration(request))
        return _reply(await target.decide(notice))

    return [
        web.post(paths.INCOMING_MEMORY, memory),
        web.get(paths.INCOMING_MEMORY, memory_state),
        web.delete(paths.INCOMING_MEMORY, lose_memory),
        web.post(paths.INCOMING_HOLD, hold),
        web.post(paths.INCOMING_RESTORE, restore),
        web.post(paths.INCOMING_VERDICT, decide),
    ]


def _guarded(guard: Guard) -> Middleware:
    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        guard.check(request, path="" if resource is None else resource.canonical)
        return await handler(request)

    return check


@web.middleware
async def _failures(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every exception into a reply that says what is wrong."""
    try:
        return await handler(request)
    except TransshipError as e:
        return _reply(failure_of(e), status=status_of(e))
    except web.HTTPException as e:
        kind = Reason.NOT_FOUND if e.status == 404 else Reason.INVALID_INPUT
        message = f"{request.method} {request.path}: {e.reason}"
        return _reply(Failure(reason=kind, message=message), status=e.status)
    except Exception:
        logger.bind(method=request.method, path=request.path).exception("request failed")
        return _reply(
            Failure(reason=Reason.INTERNAL_ERROR, message="something unforeseen went wrong",
                    hint="see the agent's log"), status=500,
        )  # fmt: skip


def _reply(message: Message, *, status: int = 200) -> web.Response:
    text = message.model_dump_json(by_alias=True, exclude_none=True)
    return web.Response(text=text, status=status, content_type="application/json")


async def _body(request: web.Request, model: type[M]) -> M:
    return _parse(await request.read(), model)


def _parse(data: bytes, model: type[M]) -> M:
    """Raises InvalidInput that names the first wrong field; its value stays unsaid: see Secrets."""
    try:
        return model.model_validate_json(data)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the body"
        raise InvalidInput(f"reading {model.__name__}: {field}: {first['msg']}") from e


def _same(field: str, said: str, in_path: str) -> None:
    if said != in_path:
        raise InvalidInput(f"{field}: the body says {said!r}, the path {in_path!r}")


def _number(request: web.Request, name: str, *, least: int) -> int:
    text = request.query.get(name, "")
    if not text.isdigit() or int(text) < least:
        raise InvalidInput(f"?{name}=: must be a number of at least {least}, not {text!r}")
    return int(text)


def _migration(request: web.Request) -> str:
    return request.match_info["migration"]


def _known(report: MigrationReport | None, request: web.Request) -> MigrationReport:
    if report is None:
        raise NotFound(f"migration {_migration(request)} is not known here")
    return report
