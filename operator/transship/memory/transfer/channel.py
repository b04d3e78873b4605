"""The connection of a page stream: mutual TLS between the source's agent and the page server."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass

from transship.api.reasons import Reason
from transship.common.errors import Refused, Unreachable
from transship.common.sockets import detect_dead_peers

CONNECT_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class PageServerEndpoint:
    """Where the target's page server listens. `node` is the name in its certificate."""

    address: str
    port: int
    node: str
    context: ssl.SSLContext


def connect_to_page_server(pages: PageServerEndpoint) -> ssl.SSLSocket:
    """Connect, blocking. Raises Unreachable."""
    where = (pages.address, pages.port)
    try:
        plain = socket.create_connection(where, timeout=CONNECT_TIMEOUT_SECONDS)
        detect_dead_peers(plain)
        return pages.context.wrap_socket(plain, server_hostname=pages.node)
    except OSError as e:  # ssl.SSLError is one
        raise Unreachable(
            f"opening the page stream to {pages.node} at {pages.address}:{pages.port}: {e}",
            reason=Reason.TARGET_UNREACHABLE,
        ) from e


def accept_page_stream(
    plain: socket.socket, context: ssl.SSLContext, *, peer: str | None
) -> ssl.SSLSocket:
    """Do the TLS handshake of an accepted connection, and check the name of the peer.

    On failure it closes the connection and raises Unreachable or Refused.
    """
    plain.settimeout(CONNECT_TIMEOUT_SECONDS)
    detect_dead_peers(plain)
    try:
        secured = context.wrap_socket(plain, server_side=True)
    except OSError as e:
        plain.close()
        raise Unreachable(f"accepting a page stream: {e}") from e
    name = _common_name(secured)
    if peer is not None and name != peer:
        secured.close()
        raise Refused(f"accepting a page stream: {name} is not {peer}", reason="Forbidden")
    return secured


def _common_name(secured: ssl.SSLSocket) -> str:
    certificate = secured.getpeercert() or {}
    for rdn in certificate.get("subject", ()):
        for pair in rdn:
            if pair[0] == "commonName":
                return str(pair[1])
    return ""
