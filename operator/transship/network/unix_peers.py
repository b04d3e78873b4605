"""The Unix sockets of a network namespace and their peers, by sock_diag(7).

/proc/net/unix does not show peers. Inode numbers are unique on the whole machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pyroute2.netlink.diag import DiagSocket

from transship.common.errors import NotFound
from transship.network import namespaces

AF_UNIX = 1
SHOW_PEER = 4  # UDIAG_SHOW_PEER
ALL_STATES = 0xFFFFFFFF


def unix_peers(namespace: Path) -> Mapping[int, int]:
    """Return the inode number of every Unix socket and that of its peer (0: no peer)."""
    if not namespaces.is_namespace(namespace):
        raise NotFound(f"listing sockets in {namespace}: it is not a network namespace")
    return namespaces.run_inside(namespace, _peers)


def _peers() -> Mapping[int, int]:
    with DiagSocket() as diag:
        sockets = diag.get_sock_stats(family=AF_UNIX, states=ALL_STATES, show=SHOW_PEER)
        return {each["udiag_ino"]: each.get_attr("UNIX_DIAG_PEER") or 0 for each in sockets}
