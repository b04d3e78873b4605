"""Who may send which request, decided from the common name of the verified client certificate.

The operator may send every request. Another agent may send only those of a peer, and only for a
migration whose record on this node names that agent's node.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from aiohttp import web

from transship.agent.journal.store import Journal
from transship.agentapi.errors import Forbidden
from transship.common.certificates import OPERATOR_NAME, agent_node


class Callers(Enum):
    """Who may use a route."""

    OPERATOR = auto()
    OPERATOR_AND_PEER = auto()  # the peer: the agent at the other end of the migration


@dataclass(frozen=True)
class Guard:
    """Refuses the requests that a caller may not send."""

    journal: Journal

    def check(self, request: web.Request, callers: Callers) -> None:
        """Raise Forbidden unless the client is one of the callers of this route."""
        caller = common_name(request)
        if caller == OPERATOR_NAME:
            return
        node = agent_node(caller)
        if node is None or callers is Callers.OPERATOR:
            raise Forbidden(f"{caller or 'a client without a name'} may not send this request")
        record = self.journal.of_migration(request.match_info["migration"])
        # without a record, or after the migration, every reply is one that permits nothing
        if record is not None and record.peer is not None and record.peer.node != node:
            raise Forbidden(f"{caller} is not the peer of this migration")


def common_name(request: web.Request) -> str:
    """The common name in the client's certificate, which TLS has verified; empty without one."""
    transport = request.transport
    certificate = transport.get_extra_info("peercert") if transport is not None else None
    for relative_name in (certificate or {}).get("subject", ()):
        for key, value in relative_name:
            if key == "commonName":
                return str(value)
    return ""
