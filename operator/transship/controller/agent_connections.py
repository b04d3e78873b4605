"""AgentConnections: a client per agent, as long as its endpoint and our certificate stay the same.

A certificate is renewed by writing its files again, one by one or all at once. The process loads
the new one without a restart.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from loguru import logger

from transship.agentapi.client.agent import AgentClient
from transship.agentapi.client.transport import context_for
from transship.api.node_agent import NodeAgent
from transship.common.errors import Unreachable
from transship.common.tasks import Tasks
from transship.common.tls import TlsFiles

RETIREMENT_SECONDS = 60.0  # twice what the longest call may take


class NodeContexts:
    """The TLS context for each node's agent, from the newest files that could be loaded."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._known: dict[str, tuple[tuple[int, ...], ssl.SSLContext]] = {}
        self._logged_version: tuple[int, ...] | None = None

    def of(self, node: str) -> ssl.SSLContext:
        """The context, which is the same object until the files change.

        Raises Unreachable where no files could be loaded yet.
        """
        known = self._known.get(node)
        version: tuple[int, ...] = ()
        try:
            version = self._files.version()
            if known is not None and known[0] == version:
                return known[1]
            context = context_for(node, self._files)
        except (OSError, ssl.SSLError) as e:
            if known is None:
                raise Unreachable(
                    f"calling the agent of node {node}: loading our own certificate: {e}",
                    reason="AgentUnreachable",
                ) from e
            self._log_once(version, e)
            return known[1]
        if known is not None:
            logger.bind(node=node).info("certificate loaded again")
        self._known[node] = (version, context)
        return context

    def _log_once(self, version: tuple[int, ...], error: Exception) -> None:
        """Log a failure once for the same files."""
        if version != self._logged_version:
            self._logged_version = version
            logger.bind(cause=str(error)).warning("a changed certificate cannot be used yet")


class AgentConnections:
    """One client per agent, made anew when its endpoint or our certificate changes."""

    def __init__(self, files: TlsFiles, *, make: Callable[..., AgentClient] = AgentClient) -> None:
        self._contexts = NodeContexts(files)
        self._make = make
        self._clients: dict[str, AgentClient] = {}
        self._closing = Tasks()
        self._retired: set[AgentClient] = set()

    def to(self, agent: NodeAgent) -> AgentClient:
        """Raises Unreachable while the agent has no endpoint, or we have no certificate."""
        node, endpoint = agent.metadata.name, agent.status.endpoint
        if not endpoint:
            raise Unreachable(
                f"calling the agent of node {node}: it has no endpoint", reason="AgentUnreachable"
            )
        context = self._contexts.of(node)
        known = self._clients.get(node)
        if known is not None:
            if known.endpoint == endpoint.rstrip("/") and known.context is context:
                return known
            self._retire(known)
        client = self._make(node, endpoint, context=context)
        self._clients[node] = client
        return client

    async def close(self) -> None:
        await self._closing.close()
        for client in (*self._clients.values(), *self._retired):
            await client.close()

    def _retire(self, client: AgentClient) -> None:
        """Close it later: calls on it may still be under way."""
        self._retired.add(client)
        _ = self._closing.begin(self._close_later(client), name=f"retire {client.node}")

    async def _close_later(self, client: AgentClient) -> None:
        await asyncio.sleep(RETIREMENT_SECONDS)
        self._retired.discard(client)
        await client.close()
