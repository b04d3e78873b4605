"""AgentClient: the calls to one node's agent over mutual TLS, and what their failures mean.

The agent's certificate must name its node before a byte is sent: orders carry the contents of
Secrets, and one node's agent must not be able to answer for another's.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection
from typing import Any, TypeVar
from urllib.parse import urlencode

import aiohttp
from pydantic import ValidationError

from transship.agentapi import paths
from transship.agentapi.containers import ContainerOrder, ContainerReport, ContainerReports, Failure
from transship.agentapi.message import Message
from transship.agentapi.migrations import (
    IncomingOrder,
    MemoryLoss,
    MigrationReport,
    OutgoingOrder,
    ResumeReply,
    VerdictNotice,
    VerdictReply,
)
from transship.agentapi.node import NodeReport
from transship.agentapi.predictions import Forecast, PredictionRequest
from transship.common.certificates import agent_name
from transship.common.errors import NotFound, Refused, TransshipError, Unreachable
from transship.common.tls import TlsFiles

CONNECT_TIMEOUT_SECONDS = 1.5
READ_TIMEOUT_SECONDS = 3.0  # what an agent has in memory
ORDER_TIMEOUT_SECONDS = 10.0  # what it writes to its journal first
END_TIMEOUT_SECONDS = 30.0  # waits for the end of a dump under way, or of a frozen copy
KEEPALIVE_SECONDS = 75.0

M = TypeVar("M", bound=Message)


def context_for(node: str, files: TlsFiles) -> ssl.SSLContext:
    """A context whose handshake fails unless the server is that node's agent."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(files.authority))
    context.load_cert_chain(files.certificate, files.key)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the node's name in the subject is checked instead
    context.sslobject_class = _checking(agent_name(node))
    return context


def _checking(name: str) -> type[ssl.SSLObject]:
    class Checked(ssl.SSLObject):
        """Looks at the server's certificate before anything is sent."""

        def do_handshake(self) -> None:
            super().do_handshake()
            found = _common_name(self.getpeercert() or {})
            if found != name:
                raise ssl.SSLCertVerificationError(f"the server is {found!r}, not {name!r}")

    return Checked


def _common_name(certificate: Any) -> str | None:
    pairs = [pair for part in certificate.get("subject", ()) for pair in part]
    return next((value for key, value in pairs if key == "commonName"), None)


class AgentClient:
    """Calls one agent. Connections are kept: a handshake costs more than most calls."""

    def __init__(
        self, node: str, endpoint: str, *, context: ssl.SSLContext,
        permit: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """permit: raises where nothing may be changed any more; see leadership."""
        self.node = node
        self.endpoint = endpoint.rstrip("/")
        self.context = context
        self._permit = permit
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def node_report(self) -> NodeReport:
        return await self._get(paths.NODE, NodeReport)

    async def containers(self) -> tuple[ContainerReport, ...]:
        return (await self._get(paths.CONTAINERS, ContainerReports)).containers

    async def container(self, id: str) -> ContainerReport | None:
        found = await self._find(paths.CONTAINER.format(id=id), ContainerReport)
        self._require_about(id, None if found is None else found.id)
        return found

    async def put_container(self, order: ContainerOrder) -> ContainerReport:
        return await self._put(paths.CONTAINER.format(id=order.id), order, ContainerReport)

    async def remove_container(self, id: str, *, epoch: int) -> None:
        await self._end("DELETE", f"{paths.CONTAINER.format(id=id)}?epoch={epoch}")

    async def forecast(self, id: str, order: PredictionRequest) -> Forecast:
        path = paths.PREDICTION.format(id=id)
        return await self._call("POST", path, Forecast, body=order, seconds=END_TIMEOUT_SECONDS)

    async def outgoing(self, migration: str) -> MigrationReport | None:
        found = await self._find(_path(paths.OUTGOING, migration), MigrationReport)
        self._require_about(migration, None if found is None else found.migration)
        return found

    async def begin_outgoing(self, order: OutgoingOrder) -> MigrationReport:
        return await self._put(_path(paths.OUTGOING, order.migration), order, MigrationReport)

    async def abort_outgoing(self, migration: str, *, container: str) -> MigrationReport | None:
        path = f"{_path(paths.OUTGOING_ABORT, migration)}?container={container}"
        try:
            return await self._call("POST", path, MigrationReport, seconds=END_TIMEOUT_SECONDS)
        except NotFound:
            return None

    async def verdict(self, migration: str) -> VerdictReply:
        return await self._get(_path(paths.OUTGOING_VERDICT, migration), VerdictReply)

    async def forget_outgoing(self, migration: str, *, gone: Collection[str] = ()) -> None:
        query = urlencode([("gone", node) for node in sorted(gone)])
        await self._end("DELETE", f"{_path(paths.OUTGOING, migration)}?{query}")

    async def incoming(self, migration: str) -> MigrationReport | None:
        found = await self._find(_path(paths.INCOMING, migration), MigrationReport)
        self._require_about(migration, None if found is None else found.migration)
        return found

    async def begin_incoming(self, order: IncomingOrder) -> MigrationReport:
        return await self._put(_path(paths.INCOMING, order.migration), order, MigrationReport)

    async def abort_incoming(self, migration: str) -> None:
        await self._end("POST", _path(paths.INCOMING_ABORT, migration))

    async def lose_memory(self, migration: str, loss: MemoryLoss) -> None:
        await self._end("DELETE", _path(paths.INCOMING_MEMORY, migration), body=loss)

    async def relay(self, notice: VerdictNotice) -> ResumeReply | None:
        path = _path(paths.INCOMING_VERDICT, notice.migration)
        try:
            return await self._call(
                "POST", path, ResumeReply, body=notice, seconds=ORDER_TIMEOUT_SECONDS
            )
        except NotFound:
            return None

    async def forget_incoming(self, migration: str) -> None:
        await self._end("DELETE", _path(paths.INCOMING, migration))

    async def _get(self, path: str, reply: type[M]) -> M:
        return await self._call("GET", path, reply, seconds=READ_TIMEOUT_SECONDS)

    async def _find(self, path: str, reply: type[M]) -> M | None:
        try:
            return await self._get(path, reply)
        except NotFound:
            return None

    def _require_about(self, asked: str, said: str | None) -> None:
        """An agent that tells of something else has not answered."""
        if said not in {None, asked}:
            raise TransshipError(
                f"asking the agent of node {self.node} about {asked}: it tells of {said}"
            )

    async def _put(self, path: str, body: Message, reply: type[M]) -> M:
        return await self._call("PUT", path, reply, body=body, seconds=ORDER_TIMEOUT_SECONDS)

    async def _end(self, method: str, path: str, *, body: Message | None = None) -> None:
        try:
            await self._exchange(method, path, body=body, seconds=END_TIMEOUT_SECONDS)
        except NotFound:
            return

    async def _call(
        self, method: str, path: str, reply: type[M], *, body: Message | None = None, seconds: float
    ) -> M:
        content = await self._exchange(method, path, body=body, seconds=seconds)
        try:
            return reply.model_validate_json(content)
        except ValidationError as e:
            raise TransshipError(
                f"reading the reply of node {self.node}'s agent to {method} {path}: {e}"
            ) from e

    async def _exchange(
        self, method: str, path: str, *, body: Message | None, seconds: float
    ) -> bytes:
        data = None if body is None else body.model_dump_json(by_alias=True, exclude_none=True)
        headers = {} if data is None else {"Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_TIMEOUT_SECONDS)
        url = self.endpoint + path
        if method != "GET":
            self._permit()
        try:
            async with self._open().request(
                method, url, data=data, headers=headers, timeout=timeout
            ) as response:
                content = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as e:
            raise Unreachable(
                f"calling the agent of node {self.node}: {str(e) or 'no answer'}",
                reason="AgentUnreachable",
            ) from e
        if response.status >= 400:
            raise _failure(response.status, content, node=self.node)
        return content

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                ssl=self.context, keepalive_timeout=KEEPALIVE_SECONDS, limit=32
            )
            self._session = aiohttp.ClientSession(connector=connector)
        return self._session


def _path(path: str, migration: str) -> str:
    return path.format(migration=migration)


def _failure(status: int, content: bytes, *, node: str) -> TransshipError:
    """The agent's own words: a failure that it reports is an answer, not silence."""
    try:
        said = Failure.model_validate_json(content)
    except ValidationError:
        said = Failure(reason="InternalError", message=f"HTTP status {status}")
    kind = NotFound if status == 404 else Refused if status < 500 else TransshipError
    return kind(f"node {node}: {said.message}", reason=said.reason, hint=said.hint)
