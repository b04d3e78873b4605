"""The agent's certificate, reloaded when its file changes, so that renewal needs no restart."""

from __future__ import annotations

import asyncio
import ssl

from loguru import logger

from transship.common.tls import TlsFiles, client_context, server_context

CHECK_SECONDS = 30.0


class Credentials:
    """TLS contexts for server and client. Open connections keep the certificate they began with."""

    def __init__(self, paths: TlsFiles) -> None:
        self.server: ssl.SSLContext = server_context(
            authority=paths.authority, certificate=paths.certificate, key=paths.key
        )
        self.client: ssl.SSLContext = client_context(
            authority=paths.authority, certificate=paths.certificate, key=paths.key
        )
        self._paths = paths
        self._version = paths.version()

    async def keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self.refresh()

    def refresh(self) -> bool:
        """Reload changed files. A certificate without its key waits for the next check."""
        try:
            version = self._paths.version()
            if version == self._version:
                return False
            # tried first: a failed load would leave the contexts in use without a certificate
            server_context(
                authority=self._paths.authority,
                certificate=self._paths.certificate,
                key=self._paths.key,
            )
            for context in (self.server, self.client):
                context.load_verify_locations(self._paths.authority)
                context.load_cert_chain(self._paths.certificate, self._paths.key)
        except (OSError, ssl.SSLError) as e:
            logger.bind(cause=str(e)).warning("loading the changed certificate failed")
            return False
        self._version = version
        logger.bind(certificate=str(self._paths.certificate)).info("certificate reloaded")
        return True
