"""One request to an agent: TLS session, deadline, and what a failure means to the caller.

Every client of agents (see `agent` and `peer`) makes its requests here. A session keeps its
connections, so that the TLS handshake is done before a container is frozen.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
from pydantic import ValidationError

from transship.agentapi.errors import error_from
from transship.agentapi.message import Message
from transship.api.reasons import Reason
from transship.common.certificates import agent_name
from transship.common.errors import TransshipError, Unreachable
from transship.common.idle_timeout import Progress, idle_timeout
from transship.common.tls import TlsFiles

KEEPALIVE_SECONDS = 75.0

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Request:
    """What is asked of the agent of one node.

    timeout_seconds counts from the last sign of progress where `progress` is given, otherwise from
    the beginning; math.inf sets no limit. unreachable_reason is the reason of the error when no
    answer comes.
    """

    node: str
    method: str
    url: str
    timeout_seconds: float
    body: bytes | AsyncIterable[bytes] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    progress: Progress | None = None
    unreachable_reason: Reason = Reason.AGENT_UNREACHABLE


class Transport:
    """A TLS session to one agent, or to several that the same context accepts."""

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        connections: int = 0,
        connect_timeout_seconds: float | None = None,
        check_host_name: bool = False,
        socket_factory: aiohttp.SocketFactoryType | None = None,
        permit: Callable[[], None] = lambda: None,
        unreadable: type[TransshipError] = TransshipError,
    ) -> None:
        """connections: at most so many at a time (0: no limit).

        check_host_name: the certificate must be valid for the node's name; otherwise the context
        checks whom it is for (see `context_for`). permit: called before each request that changes
        something; raises where that is not allowed. unreadable: the error for an answer that is
        neither the expected message nor a Failure.
        """
        self._context = context
        self._connections = connections
        self._timeout = aiohttp.ClientTimeout(sock_connect=connect_timeout_seconds)
        self._check_host_name = check_host_name
        self._socket_factory = socket_factory
        self._permit = permit
        self._unreadable = unreadable
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(self, request: Request, reply: type[M]) -> M:
        """Send a request and read the reply."""
        content = await self.send(request)
        try:
            return reply.model_validate_json(content)
        except ValidationError as e:
            raise self._unreadable(
                f"reading the reply of the agent of node {request.node} to "
                f"{request.method} {request.url}: {e}"
            ) from e

    async def send(self, request: Request) -> bytes:
        """Send a request; returns the reply's body as it is."""
        async with self.open(request) as response:
            return await response.read()

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response that is 2xx, to be read inside.

        Raises Unreachable when no answer comes, and the error that the agent reports.
        """
        if request.method != "GET":
            self._permit()
        try:
            async with (
                idle_timeout(request.timeout_seconds, request.progress),
                self._open_session().request(
                    request.method,
                    request.url,
                    data=request.body,
                    headers=request.headers,
                    timeout=self._timeout,
                    server_hostname=request.node if self._check_host_name else None,
                ) as response,
            ):
                if response.status >= 400:
                    raise self._failure(request, response.status, await response.read())
                yield response
        except (aiohttp.ClientError, OSError, TimeoutError) as e:
            raise Unreachable(
                f"calling the agent of node {request.node}: {str(e) or 'no answer'}",
                reason=request.unreachable_reason,
            ) from e

    def _failure(self, request: Request, status: int, content: bytes) -> TransshipError:
        return error_from(status, content, node=request.node) or self._unreadable(
            f"calling the agent of node {request.node}: HTTP status {status}"
        )

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                ssl=self._context,
                keepalive_timeout=KEEPALIVE_SECONDS,
                limit=self._connections,
                socket_factory=self._socket_factory,
            )
            self._session = aiohttp.ClientSession(connector=connector)
        return self._session


def json_body(message: Message) -> tuple[bytes, dict[str, str]]:
    """A message as a request's body, and the headers that go with it."""
    text = message.model_dump_json(by_alias=True, exclude_none=True)
    return text.encode(), {"Content-Type": "application/json"}


def context_for(node: str, files: TlsFiles) -> ssl.SSLContext:
    """A context whose handshake fails unless the server is the agent of this node.

    The agent's certificate is checked before a byte is sent: orders carry the contents of Secrets,
    and the agent of one node must not be able to answer for another's.
    """
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(files.authority))
    context.load_cert_chain(files.certificate, files.key)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # the node's name in the certificate's subject is checked instead
    context.check_hostname = False
    context.sslobject_class = _checking(agent_name(node))
    return context


def _checking(expected: str) -> type[ssl.SSLObject]:
    class Checked(ssl.SSLObject):
        """Checks the server's certificate before anything is sent."""

        def do_handshake(self) -> None:
            super().do_handshake()
            name = _common_name(self.getpeercert() or {})
            if name != expected:
                raise ssl.SSLCertVerificationError(f"the server is {name!r}, not {expected!r}")

    return Checked


def _common_name(certificate: Any) -> str | None:
    pairs = [pair for part in certificate.get("subject", ()) for pair in part]
    return next((value for key, value in pairs if key == "commonName"), None)
