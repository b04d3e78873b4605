"""Mutual TLS between agents and operator: one authority, TLS 1.3, a certificate on both sides."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: the authority of agents and operator, and one's own certificate."""

    authority: Path
    certificate: Path
    key: Path

    def version(self) -> tuple[int, ...]:
        """Another one for other files; raises OSError where one is missing."""
        files = (self.authority, self.certificate, self.key)
        return tuple(file.stat().st_mtime_ns for file in files)


def server_context(*, authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """No connection without a client certificate of our authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    return context


def client_context(*, authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """For calls to other agents: the same authority, and the peer's name is checked."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(authority))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    return context
