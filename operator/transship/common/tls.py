"""Mutual TLS between agents and operator: one authority, TLS 1.3, certificates on both sides."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: the authority of agents and operator, and this program's certificate and key."""

    authority: Path
    certificate: Path
    key: Path

    def version(self) -> tuple[int, ...]:
        """Return a value that changes when a file changes. Raises OSError if one is missing."""
        files = (self.authority, self.certificate, self.key)
        return tuple(file.stat().st_mtime_ns for file in files)


def server_context(*, authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a context that accepts only clients with a certificate of the authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    return context


def client_context(*, authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a context for calls to agents. It checks the authority and the peer's name."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(authority))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    return context
