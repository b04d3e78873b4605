"""The routes of the agent's HTTPS service: method, path, who may use it, and its handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from transship.agent.http import handlers
from transship.agent.http.access_control import Callers, Guard
from transship.agent.http.handlers import HttpDeps
from transship.agent.http.replies import errors_to_failures
from transship.agentapi import paths

# an order carries the container's Secrets, of 1 MiB each
LARGEST_ORDER_BYTES = 256 << 20


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    callers: Callers
    handler: Callable[[HttpDeps, web.Request], Awaitable[web.StreamResponse]]


OPERATOR, PEER = Callers.OPERATOR, Callers.OPERATOR_AND_PEER

ROUTES = (
    Route("GET", paths.NODE, OPERATOR, handlers.get_node),
    Route("GET", paths.METRICS, OPERATOR, handlers.get_metrics),
    Route("GET", paths.CONTAINERS, OPERATOR, handlers.list_containers),
    Route("GET", paths.CONTAINER, OPERATOR, handlers.get_container),
    Route("PUT", paths.CONTAINER, OPERATOR, handlers.apply_container),
    Route("DELETE", paths.CONTAINER, OPERATOR, handlers.delete_container),
    Route("GET", paths.LOGS, OPERATOR, handlers.get_logs),
    Route("POST", paths.PREDICTION, OPERATOR, handlers.predict_migration),
    Route("PUT", paths.OUTGOING, OPERATOR, handlers.begin_outgoing),
    Route("GET", paths.OUTGOING, OPERATOR, handlers.get_outgoing),
    Route("DELETE", paths.OUTGOING, OPERATOR, handlers.forget_outgoing),
    Route("POST", paths.OUTGOING_ABORT, OPERATOR, handlers.abort_outgoing),
    Route("GET", paths.OUTGOING_VERDICT, PEER, handlers.get_verdict),
    Route("PUT", paths.INCOMING, OPERATOR, handlers.begin_incoming),
    Route("GET", paths.INCOMING, PEER, handlers.get_incoming),
    Route("DELETE", paths.INCOMING, OPERATOR, handlers.forget_incoming),
    Route("POST", paths.INCOMING_ABORT, OPERATOR, handlers.abort_incoming),
    Route("POST", paths.INCOMING_MEMORY, PEER, handlers.prepare_memory),
    Route("GET", paths.INCOMING_MEMORY, PEER, handlers.get_memory_state),
    Route("DELETE", paths.INCOMING_MEMORY, OPERATOR, handlers.lose_memory),
    Route("POST", paths.INCOMING_HOLD, PEER, handlers.hold_packets),
    Route("POST", paths.INCOMING_RESTORE, PEER, handlers.restore),
    Route("POST", paths.INCOMING_VERDICT, PEER, handlers.act_on_verdict),
)

_CALLERS = {(route.method, route.path): route.callers for route in ROUTES}


def make_app(deps: HttpDeps) -> web.Application:
    """The application; the listener brings TLS."""
    app = web.Application(
        middlewares=[errors_to_failures, _access_control(deps.guard)],
        client_max_size=LARGEST_ORDER_BYTES,
    )
    app.add_routes(
        web.route(route.method, route.path, partial(route.handler, deps)) for route in ROUTES
    )
    return app


def _access_control(guard: Guard) -> Middleware:
    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        path = "" if resource is None else resource.canonical
        # what is no route is the operator's: nobody else learns which paths there are
        guard.check(request, _CALLERS.get((request.method, path), Callers.OPERATOR))
        return await handler(request)

    return check
