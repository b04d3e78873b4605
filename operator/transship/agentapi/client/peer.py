"""PeerClient: what source and target of a migration ask of each other."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterable

import aiohttp

from transship.agentapi import paths
from transship.agentapi.client.transport import Request, Transport, json_body
from transship.agentapi.migrations import (
    MemoryEndpoint,
    MemoryState,
    Peer,
    RestoreReply,
    RestoreRequest,
    ResumeReply,
    VerdictNotice,
    VerdictReply,
)
from transship.api.reasons import Reason
from transship.common.errors import Unreachable
from transship.common.idle_timeout import Progress
from transship.common.sockets import detect_dead_peers

CALL_TIMEOUT_SECONDS = 5.0
READY_TIMEOUT_SECONDS = 30.0
"""For what starts programs; nothing is frozen yet, and a host that is gone is noticed sooner."""


class PeerClient:
    """Calls to other agents; one object serves all peers of an agent.

    A reply that cannot be read is Unreachable: the peer may have acted all the same.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        """The context checks the host name: an agent's certificate is valid for its node's."""
        self._transport = Transport(
            context,
            check_host_name=True,
            socket_factory=_prompt_socket,
            unreadable=Unreachable,
        )

    async def close(self) -> None:
        await self._transport.close()

    async def memory(self, peer: Peer, migration: str) -> MemoryEndpoint:
        url = _url(peer, paths.INCOMING_MEMORY, migration)
        request = _to_target(peer, "POST", url, timeout_seconds=READY_TIMEOUT_SECONDS)
        return await self._transport.call(request, MemoryEndpoint)

    async def memory_state(self, peer: Peer, migration: str) -> MemoryState:
        url = _url(peer, paths.INCOMING_MEMORY, migration)
        return await self._transport.call(_to_target(peer, "GET", url), MemoryState)

    async def hold(self, peer: Peer, migration: str) -> None:
        url = _url(peer, paths.INCOMING_HOLD, migration)
        _ = await self._transport.send(_to_target(peer, "POST", url))

    async def restore(
        self,
        peer: Peer,
        migration: str,
        *,
        request: RestoreRequest,
        images: AsyncIterable[bytes],
        size: int,
        timeout_seconds: float,
        progress: Progress | None = None,
    ) -> RestoreReply:
        """`size` is that of all images in bytes.

        The timeout counts from the last progress of what the target waits for.
        """
        headers = {
            paths.RESTORE_HEADER: request.model_dump_json(by_alias=True),
            "Content-Length": str(size),
        }
        call = Request(
            peer.node,
            "POST",
            _url(peer, paths.INCOMING_RESTORE, migration),
            timeout_seconds,
            body=images,
            headers=headers,
            progress=progress,
            unreachable_reason=Reason.TARGET_UNREACHABLE,
        )
        return await self._transport.call(call, RestoreReply)

    async def decide(self, peer: Peer, notice: VerdictNotice) -> ResumeReply:
        body, headers = json_body(notice)
        call = Request(
            peer.node,
            "POST",
            _url(peer, paths.INCOMING_VERDICT, notice.migration),
            CALL_TIMEOUT_SECONDS,
            body=body,
            headers=headers,
            unreachable_reason=Reason.TARGET_UNREACHABLE,
        )
        return await self._transport.call(call, ResumeReply)

    async def verdict(self, peer: Peer, migration: str) -> VerdictReply:
        """Asked by a target of its source."""
        call = Request(
            peer.node,
            "GET",
            _url(peer, paths.OUTGOING_VERDICT, migration),
            CALL_TIMEOUT_SECONDS,
            unreachable_reason=Reason.SOURCE_UNREACHABLE,
        )
        return await self._transport.call(call, VerdictReply)


def _url(peer: Peer, path: str, migration: str) -> str:
    return peer.endpoint + path.format(migration=migration)


def _to_target(
    peer: Peer, method: str, url: str, *, timeout_seconds: float = CALL_TIMEOUT_SECONDS
) -> Request:
    return Request(
        peer.node, method, url, timeout_seconds, unreachable_reason=Reason.TARGET_UNREACHABLE
    )


def _prompt_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    sock.setblocking(False)
    detect_dead_peers(sock)
    return sock
