"""A TLS server that poses as the agent of a node, with certificates of a real authority."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from transship.common.certificates import Credentials, new_authority, write_credentials
from transship.common.tls import TlsFiles

Handle = Callable[[web.Request], web.StreamResponse]


class Pki:
    """An authority, and the operator's certificate as files."""

    def __init__(self, directory: Path) -> None:
        self.authority = new_authority("test")
        self.directory = directory
        ca = directory / "ca.crt"
        ca.write_bytes(self.authority.credentials.certificate)
        own = write_credentials(self.authority.issue_operator(), directory, "operator")
        self.files = TlsFiles(ca, own.certificate, own.key)

    def server(self, credentials: Credentials) -> ssl.SSLContext:
        files = write_credentials(credentials, self.directory, "server")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.files.authority)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(files.certificate, files.key)
        return context


@asynccontextmanager
async def serving(pki: Pki, handle: Handle, *, node: str = "node-a") -> AsyncIterator[str]:
    """The endpoint of a server with the certificate of this node's agent."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return handle(request)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    credentials = pki.authority.issue_agent(node, addresses=["127.0.0.1"])
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=pki.server(credentials))
    await site.start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
