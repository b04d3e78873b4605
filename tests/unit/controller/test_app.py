from __future__ import annotations

import socket

import aiohttp
import pytest

from transship.controller.app import answering


async def test_one_that_waits_for_the_lease_answers_until_kopf_does() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/healthz"
    async with aiohttp.ClientSession() as session:
        async with answering(port), session.get(url) as reply:
            assert reply.status == 200
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(url)


async def test_without_a_port_nobody_is_answered() -> None:
    async with answering(None):
        pass
