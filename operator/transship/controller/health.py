"""The HTTP endpoints of the operator's process: /healthz, /readyz and /metrics.

They are served from the start of the process to its end, also while another operator leads.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from transship.api.reasons import Reason
from transship.common.clock import Clock
from transship.common.errors import Conflict, Refused, TransshipError, Unreachable
from transship.controller.metrics import Metrics
from transship.kube.transport import ApiServer, Request

UNREACHED_SECONDS = 30.0
"""A restart of the API server takes less. A request is made at least every 5 s: leases."""

Answer = Callable[[], web.Response]


class ApiContact:
    """The API server, and when a request last succeeded."""

    def __init__(self, transport: ApiServer, *, clock: Clock) -> None:
        self._transport = transport
        self._clock = clock
        self._reached = clock.monotonic()
        self._failure: TransshipError | None = None

    async def send(self, request: Request) -> dict[str, Any]:
        try:
            answer = await self._transport.send(request)
        except Conflict:
            self._note_reached()
            raise
        except (Unreachable, Refused) as e:
            # Refused: our rights do not suffice
            self._failure = e
            raise
        except TransshipError:
            self._note_reached()
            raise
        self._note_reached()
        return answer

    async def close(self) -> None:
        await self._transport.close()

    @property
    def failure(self) -> TransshipError | None:
        """The error of the last request, where none has succeeded for too long."""
        if self._clock.monotonic() - self._reached <= UNREACHED_SECONDS:
            return None
        return self._failure or Unreachable(
            "no request was made to the API server", reason=Reason.API_SERVER_UNREACHABLE
        )

    def _note_reached(self) -> None:
        self._reached = self._clock.monotonic()


def healthz(contact: ApiContact) -> web.Response:
    """Liveness: not ok once the API server has not been reached for too long."""
    return _status(contact.failure)


def readyz(contact: ApiContact, *, watching: bool) -> web.Response:
    """Readiness: this process acts, as the leader if there is an election."""
    idle = Refused("this operator does not act yet", reason=Reason.NOT_LEADING)
    return _status(contact.failure or (None if watching else idle))


def metrics_text(metrics: Metrics) -> web.Response:
    return web.Response(body=metrics.text(), content_type="text/plain", charset="utf-8")


def _status(failure: TransshipError | None) -> web.Response:
    if failure is None:
        return web.json_response({})
    body = {"reason": str(failure.reason), "message": str(failure)}
    return web.json_response(body, status=503)


@asynccontextmanager
async def serving(answers: dict[str, Answer], *, port: int | None) -> AsyncIterator[None]:
    """Serve these paths, or nothing without a port. Raises TransshipError if the port is taken."""
    if port is None:
        yield
        return
    app = web.Application()
    app.add_routes([web.get(path, _handler(answer)) for path, answer in answers.items()])
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        await _listen(runner, port=port)
        yield
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, *, port: int) -> None:
    try:
        await web.TCPSite(runner, port=port).start()
    except OSError as e:
        raise TransshipError(
            f"serving on port {port}: {e.strerror or e}",
            reason=Reason.PORT_UNAVAILABLE,
            hint=Reason.PORT_UNAVAILABLE.hint,
        ) from e


def _handler(answer: Answer) -> Callable[[web.Request], Any]:
    async def handle(_: web.Request) -> web.Response:
        return answer()

    return handle
