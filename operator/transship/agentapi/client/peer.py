"""The other side of a migration, as a client: what source and target ask of each other.

One session with kept-alive connections: the handshake of TLS happens before the freeze.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterable
from typing import TypeVar

import aiohttp
from pydantic import ValidationError

from transship.agentapi import paths
from transship.agentapi.containers import Failure
from transship.agentapi.message import Message
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
from transship.common.errors import NotFound, Refused, TransshipError, Unreachable
from transship.common.idle_timeout import Progress, idle_timeout
from transship.common.sockets import make_prompt

CALL_TIMEOUT_SECONDS = 5.0
READY_TIMEOUT_SECONDS = 30.0
"""For what starts programs; nothing is frozen yet, and a host that is gone is noticed sooner."""
RESTORE_HEADER = "Transship-Restore"

M = TypeVar("M", bound=Message)


class Done(Message):
    """A reply that says nothing but that it was done."""


class PeerClient:
    """Calls to other agents; one object serves all peers of an agent."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def memory(self, peer: Peer, migration: str) -> MemoryEndpoint:
        return await self._post(
            peer,
            paths.INCOMING_MEMORY,
            migration,
            reply=MemoryEndpoint,
            timeout_seconds=READY_TIMEOUT_SECONDS,
        )

    async def memory_state(self, peer: Peer, migration: str) -> MemoryState:
        return await self._call("GET", peer, paths.INCOMING_MEMORY, migration, reply=MemoryState)

    async def hold(self, peer: Peer, migration: str) -> None:
        await self._post(peer, paths.INCOMING_HOLD, migration, reply=Done)

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
        """`size` is that of all images.

        The time is counted from the last progress of what the target waits for.
        """
        return await self._post(
            peer,
            paths.INCOMING_RESTORE,
            migration,
            reply=RestoreReply,
            body=images,
            headers={
                RESTORE_HEADER: request.model_dump_json(by_alias=True),
                "Content-Length": str(size),
            },
            timeout_seconds=timeout_seconds,
            progress=progress,
        )

    async def decide(self, peer: Peer, notice: VerdictNotice) -> ResumeReply:
        return await self._post(
            peer,
            paths.INCOMING_VERDICT,
            notice.migration,
            reply=ResumeReply,
            body=notice.model_dump_json(by_alias=True).encode(),
        )

    async def verdict(self, peer: Peer, migration: str) -> VerdictReply:
        return await self._call("GET", peer, paths.OUTGOING_VERDICT, migration, reply=VerdictReply)

    async def _post(
        self,
        peer: Peer,
        path: str,
        migration: str,
        *,
        reply: type[M],
        body: bytes | AsyncIterable[bytes] = b"",
        headers: dict[str, str] | None = None,
        timeout_seconds: float = CALL_TIMEOUT_SECONDS,
        progress: Progress | None = None,
    ) -> M:
        return await self._call(
            "POST",
            peer,
            path,
            migration,
            reply=reply,
            body=body,
            headers=headers,
            timeout_seconds=timeout_seconds,
            progress=progress,
        )

    async def _call(
        self,
        method: str,
        peer: Peer,
        path: str,
        migration: str,
        *,
        reply: type[M],
        body: bytes | AsyncIterable[bytes] = b"",
        headers: dict[str, str] | None = None,
        timeout_seconds: float = CALL_TIMEOUT_SECONDS,
        progress: Progress | None = None,
    ) -> M:
        url = peer.endpoint + path.format(migration=migration)
        try:
            async with (
                idle_timeout(timeout_seconds, progress),
                self._open().request(
                    method, url, data=body, headers=headers, server_hostname=peer.node
                ) as response,
            ):
                content = await response.read()
                status = response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as e:
            raise Unreachable(
                f"calling the agent of {peer.node}: {str(e) or 'no answer'}",
                reason=_silence(path),
            ) from e
        if status >= 400:
            raise failure(status, content, peer=peer.node)
        try:
            return reply.model_validate_json(content or b"{}")
        except ValidationError as e:
            raise Unreachable(f"calling the agent of {peer.node}: reading its reply: {e}") from e

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                ssl=self._context, keepalive_timeout=60, limit=0, socket_factory=_prompt_socket
            )
            self._session = aiohttp.ClientSession(connector=connector)
        return self._session


def _silence(path: str) -> Reason:
    """Which side of the migration does not answer: only a target asks for a verdict."""
    asks_source = path == paths.OUTGOING_VERDICT
    return Reason.SOURCE_UNREACHABLE if asks_source else Reason.TARGET_UNREACHABLE


def _prompt_socket(where: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = where
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    make_prompt(made)
    return made


def failure(status: int, content: bytes, *, peer: str) -> TransshipError:
    """What the peer's refusal means here."""
    try:
        said = Failure.model_validate_json(content)
    except ValidationError:
        return Unreachable(f"calling the agent of {peer}: HTTP status {status}")
    kind = NotFound if status == 404 else Refused if status < 500 else TransshipError
    return kind(f"{peer}: {said.message}", reason=said.reason, hint=said.hint)
