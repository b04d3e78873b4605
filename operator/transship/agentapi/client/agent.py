"""AgentClient: the calls of the operator and of the CLI to the agent of one node."""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import suppress
from typing import TypeVar
from urllib.parse import urlencode

from transship.agentapi import paths
from transship.agentapi.client.transport import Request, Transport, json_body
from transship.agentapi.containers import ContainerOrder, ContainerReport, ContainerReports
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
from transship.agentapi.predictions import PredictionReply, PredictionRequest
from transship.common.errors import NotFound, TransshipError

CONNECT_TIMEOUT_SECONDS = 1.5
READ_TIMEOUT_SECONDS = 3.0  # what an agent has in memory
ORDER_TIMEOUT_SECONDS = 10.0  # what it writes to its journal first
END_TIMEOUT_SECONDS = 30.0  # waits for the end of a dump under way, or of a frozen copy
CONNECTIONS = 32

M = TypeVar("M", bound=Message)


class AgentClient:
    """Calls one agent.

    Every call ends in time and raises Unreachable when no answer comes. What the agent does not
    know is None where something is read, and no error where it is ended or forgotten.
    """

    def __init__(
        self,
        node: str,
        endpoint: str,
        *,
        context: ssl.SSLContext,
        permit: Callable[[], None] = lambda: None,
    ) -> None:
        """permit: raises where this process may change nothing any more (controller.leader)."""
        self.node = node
        self.endpoint = endpoint.rstrip("/")
        self.context = context
        self._transport = Transport(
            context,
            connections=CONNECTIONS,
            connect_timeout_seconds=CONNECT_TIMEOUT_SECONDS,
            permit=permit,
        )

    async def close(self) -> None:
        await self._transport.close()

    async def node_report(self) -> NodeReport:
        return await self._get(paths.NODE, NodeReport)

    async def containers(self) -> tuple[ContainerReport, ...]:
        return (await self._get(paths.CONTAINERS, ContainerReports)).containers

    async def container(self, id: str) -> ContainerReport | None:
        report = await self._find(paths.CONTAINER.format(id=id), ContainerReport)
        self._require_about(id, None if report is None else report.id)
        return report

    async def put_container(self, order: ContainerOrder) -> ContainerReport:
        return await self._put(paths.CONTAINER.format(id=order.id), order, ContainerReport)

    async def remove_container(self, id: str, *, epoch: int) -> None:
        await self._end("DELETE", f"{paths.CONTAINER.format(id=id)}?epoch={epoch}")

    async def predict(self, id: str, order: PredictionRequest) -> PredictionReply:
        path = paths.PREDICTION.format(id=id)
        return await self._call(
            "POST", path, PredictionReply, body=order, timeout_seconds=END_TIMEOUT_SECONDS
        )

    async def logs(self, id: str, *, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """The output of a container, as long as it goes on where `follow` is asked for."""
        path = f"{paths.LOGS.format(id=id)}?{urlencode(query)}"
        request = self._request("GET", path, timeout_seconds=math.inf)
        async with self._transport.open(request) as response:
            async for chunk in response.content.iter_any():
                yield chunk

    async def outgoing(self, migration: str) -> MigrationReport | None:
        report = await self._find(_path(paths.OUTGOING, migration), MigrationReport)
        self._require_about(migration, None if report is None else report.migration)
        return report

    async def begin_outgoing(self, order: OutgoingOrder) -> MigrationReport:
        return await self._put(_path(paths.OUTGOING, order.migration), order, MigrationReport)

    async def abort_outgoing(self, migration: str, *, container: str) -> MigrationReport | None:
        path = f"{_path(paths.OUTGOING_ABORT, migration)}?container={container}"
        try:
            return await self._call(
                "POST", path, MigrationReport, timeout_seconds=END_TIMEOUT_SECONDS
            )
        except NotFound:
            return None

    async def verdict(self, migration: str) -> VerdictReply:
        return await self._get(_path(paths.OUTGOING_VERDICT, migration), VerdictReply)

    async def forget_outgoing(self, migration: str, *, gone: Collection[str] = ()) -> None:
        query = urlencode([("gone", node) for node in sorted(gone)])
        await self._end("DELETE", f"{_path(paths.OUTGOING, migration)}?{query}")

    async def incoming(self, migration: str) -> MigrationReport | None:
        report = await self._find(_path(paths.INCOMING, migration), MigrationReport)
        self._require_about(migration, None if report is None else report.migration)
        return report

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
                "POST", path, ResumeReply, body=notice, timeout_seconds=ORDER_TIMEOUT_SECONDS
            )
        except NotFound:
            return None

    async def forget_incoming(self, migration: str) -> None:
        await self._end("DELETE", _path(paths.INCOMING, migration))

    async def _get(self, path: str, reply: type[M]) -> M:
        return await self._call("GET", path, reply, timeout_seconds=READ_TIMEOUT_SECONDS)

    async def _find(self, path: str, reply: type[M]) -> M | None:
        try:
            return await self._get(path, reply)
        except NotFound:
            return None

    def _require_about(self, asked: str, answered: str | None) -> None:
        """An agent that reports on something else has not answered."""
        if answered not in {None, asked}:
            raise TransshipError(
                f"asking the agent of node {self.node} about {asked}: it reports on {answered}"
            )

    async def _put(self, path: str, body: Message, reply: type[M]) -> M:
        return await self._call(
            "PUT", path, reply, body=body, timeout_seconds=ORDER_TIMEOUT_SECONDS
        )

    async def _end(self, method: str, path: str, *, body: Message | None = None) -> None:
        request = self._request(method, path, body=body, timeout_seconds=END_TIMEOUT_SECONDS)
        with suppress(NotFound):
            _ = await self._transport.send(request)

    async def _call(
        self,
        method: str,
        path: str,
        reply: type[M],
        *,
        body: Message | None = None,
        timeout_seconds: float,
    ) -> M:
        request = self._request(method, path, body=body, timeout_seconds=timeout_seconds)
        return await self._transport.call(request, reply)

    def _request(
        self, method: str, path: str, *, body: Message | None = None, timeout_seconds: float
    ) -> Request:
        url = self.endpoint + path
        if body is None:
            return Request(self.node, method, url, timeout_seconds)
        data, headers = json_body(body)
        return Request(self.node, method, url, timeout_seconds, body=data, headers=headers)


def _path(path: str, migration: str) -> str:
    return path.format(migration=migration)
