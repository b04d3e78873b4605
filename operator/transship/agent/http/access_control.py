"""Who may call what: decided from the common name of the verified client certificate alone.

The operator may do everything. Another agent may only do what a peer does inside a migration that
names it, as this agent's own record of that migration says.
"""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from transship.agent.journal.store import Journal
from transship.agentapi import paths
from transship.agentapi.errors import Forbidden
from transship.common.certificates import OPERATOR_NAME, agent_node

CALLS_OF_PEERS = frozenset(
    {
        ("GET", paths.INCOMING),
        ("POST", paths.INCOMING_MEMORY),
        ("GET", paths.INCOMING_MEMORY),
        ("POST", paths.INCOMING_HOLD),
        ("POST", paths.INCOMING_RESTORE),
        ("POST", paths.INCOMING_VERDICT),
        ("GET", paths.OUTGOING_VERDICT),
    }
)


@dataclass(frozen=True)
class Guard:
    journal: Journal

    def check(self, request: web.Request, *, path: str) -> None:
        """Raise Forbidden unless the caller may make this call. path is the route's pattern."""
        caller = common_name(request)
        if caller == OPERATOR_NAME:
            return
        node = agent_node(caller)
        if node is None or (request.method, path) not in CALLS_OF_PEERS:
            raise Forbidden(f"{caller or 'a client without a name'} may not call this agent so")
        record = self.journal.of_migration(request.match_info["migration"])
        # no record, or an ended migration: the answer "unknown" or "aborted" permits nothing
        if record is not None and record.peer is not None and record.peer.node != node:
            raise Forbidden(f"{caller} has no part in this migration")


def common_name(request: web.Request) -> str:
    """Of the client's certificate, which TLS has verified; empty without one."""
    transport = request.transport
    certificate = transport.get_extra_info("peercert") if transport is not None else None
    for relative_name in (certificate or {}).get("subject", ()):
        for key, value in relative_name:
            if key == "commonName":
                return str(value)
    return ""
