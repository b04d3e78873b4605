"""Calls between agents in memory, with what a real network does to them: late, twice, never."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from transship.agent.migration.source.source import Source
from transship.agent.migration.target.target import Target
from transship.agentapi.client.peer import CALL_TIMEOUT_SECONDS
from transship.agentapi.errors import error_from, failure_of, status_of
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
from transship.common.errors import TransshipError, Unreachable
from transship.common.idle_timeout import Progress

T = TypeVar("T")

WAY_SECONDS = 0.001


class Listener(Protocol):
    """An agent that can be called."""

    source: Source
    target: Target

    def serve(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]: ...


@dataclass
class Network:
    """Every fault is for the next message of that name, in order."""

    listeners: dict[str, Listener] = field(default_factory=dict)
    cut: bool = False
    lost_requests: list[str] = field(default_factory=list)
    lost_replies: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    late_seconds: dict[str, float] = field(default_factory=dict)

    def heal(self) -> None:
        self.cut = False
        for planned in (self.lost_requests, self.lost_replies, self.repeated):
            planned.clear()
        self.late_seconds.clear()

    async def call(
        self,
        to: str,
        name: str,
        handler: Callable[[Listener], Coroutine[Any, Any, T]],
        *,
        timeout_seconds: float = CALL_TIMEOUT_SECONDS,
    ) -> T:
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._exchange(to, name, handler)
        except TimeoutError as e:
            raise Unreachable(f"{name}: no answer") from e

    async def _exchange(
        self, to: str, name: str, handler: Callable[[Listener], Coroutine[Any, Any, T]]
    ) -> T:
        delivery = asyncio.create_task(self._arrive(to, name, handler))
        if _take(self.repeated, name):
            again = asyncio.create_task(self._arrive(to, name, handler))
            again.add_done_callback(_forget_outcome)
        # whoever gives up waiting takes nothing back that is on its way
        reply = await asyncio.shield(_silently(delivery))
        if self.cut or _take(self.lost_replies, name):
            await _forever()
        await asyncio.sleep(WAY_SECONDS)
        if isinstance(reply, TransshipError):
            body = failure_of(reply).model_dump_json(by_alias=True).encode()
            error = error_from(status_of(reply), body, node=to)
            raise error or Unreachable(f"{name}: the reply cannot be read")
        if isinstance(reply, Exception):
            raise Unreachable(f"{name}: the reply cannot be read")
        return reply

    async def _arrive(
        self, to: str, name: str, handler: Callable[[Listener], Coroutine[Any, Any, T]]
    ) -> T:
        if self.cut or _take(self.lost_requests, name):
            await _forever()
        await asyncio.sleep(self.late_seconds.pop(name, WAY_SECONDS))
        listener = self.listeners.get(to)
        if listener is None:
            raise Unreachable(f"{to} refuses connections")
        serving = listener.serve(handler(listener))
        serving.add_done_callback(_forget_outcome)
        try:
            return await asyncio.shield(serving)
        except asyncio.CancelledError:
            if serving.cancelled():
                raise Unreachable(f"{to} hung up") from None
            raise


class FakePeers:
    """peers.PeerClient of one agent."""

    def __init__(self, network: Network, *, must_live: Callable[[], None]) -> None:
        self._network = network
        self._must_live = must_live

    async def memory(self, peer: Peer, migration: str) -> MemoryEndpoint:
        return await self._call(peer, "memory", lambda agent: agent.target.memory(migration))

    async def memory_state(self, peer: Peer, migration: str) -> MemoryState:
        async def ask(agent: Listener) -> MemoryState:
            return agent.target.memory_state(migration)

        return await self._call(peer, "memory_state", ask)

    async def hold(self, peer: Peer, migration: str) -> None:
        return await self._call(peer, "hold", lambda agent: agent.target.hold(migration))

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
        sent = [block async for block in images]  # each repetition brings all of it
        assert sum(map(len, sent)) == size

        async def body() -> AsyncIterator[bytes]:
            for block in sent:
                yield block

        return await self._call(
            peer,
            "restore",
            lambda agent: agent.target.restore(migration, request, body=body()),
            timeout_seconds=timeout_seconds,
        )

    async def decide(self, peer: Peer, notice: VerdictNotice) -> ResumeReply:
        return await self._call(peer, "decide", lambda agent: agent.target.decide(notice))

    async def verdict(self, peer: Peer, migration: str) -> VerdictReply:
        async def ask(agent: Listener) -> VerdictReply:
            return agent.source.verdict(migration)

        return await self._call(peer, "verdict", ask)

    async def _call(
        self,
        peer: Peer,
        name: str,
        handler: Callable[[Listener], Coroutine[Any, Any, T]],
        *,
        timeout_seconds: float = CALL_TIMEOUT_SECONDS,
    ) -> T:
        self._must_live()
        return await self._network.call(peer.node, name, handler, timeout_seconds=timeout_seconds)


def _take(planned: list[str], name: str) -> bool:
    if name not in planned:
        return False
    planned.remove(name)
    return True


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()


async def _silently(work: Awaitable[T]) -> T | Exception:
    try:
        return await work
    except Exception as e:
        return e


def _forget_outcome(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
