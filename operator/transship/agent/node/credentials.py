"""The agent's certificate, taken up anew when its file changes: renewing it needs no restart."""

from __future__ import annotations

import asyncio
import ssl

from loguru import logger

from transship.common.tls import TlsFiles, client_context, server_context

CHECK_SECONDS = 30.0


class Credentials:
    """TLS of both directions; connections that are open keep what they began with."""

    def __init__(self, paths: TlsFiles) -> None:
        files = {
            "authority": paths.authority, "certificate": paths.certificate, "key": paths.key,
        }  # fmt: skip
        self.server: ssl.SSLContext = server_context(**files)
        self.client: ssl.SSLContext = client_context(**files)
        self._paths = paths
        self._version = paths.version()

    async def keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self.refresh()

    def refresh(self) -> bool:
        """Load what has changed; a pair with one half missing waits for the next look."""
        try:
            version = self._paths.version()
            if version == self._version:
                return False
            server_context(
                authority=self._paths.authority,
                certificate=self._paths.certificate,
                key=self._paths.key,
            )  # a pair that does not match would leave the contexts in use without any
            for context in (self.server, self.client):
                context.load_verify_locations(self._paths.authority)
                context.load_cert_chain(self._paths.certificate, self._paths.key)
        except (OSError, ssl.SSLError) as e:
            logger.bind(cause=str(e)).warning("a changed certificate cannot be used yet")
            return False
        self._version = version
        logger.bind(certificate=str(self._paths.certificate)).info("certificate taken up anew")
        return True
