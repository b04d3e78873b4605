"""The kernel's network settings that containers need, as tables.

They are written in the network namespace of the calling thread. A setting that the kernel does not
have (no IPv6, no MPTCP) is skipped: then nothing depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from transship.common.errors import TransshipError

ROOT = Path("/proc/sys/net")
# for packets to one held address; the default is enough for 92 datagrams of 1 KB
QUEUE_BYTES = 16 * 1024 * 1024
# one a second: outlasts any migration, and their sum must not overflow an int
PROBES = 100_000
RP_OFF = 0
RP_STRICT = 1
RP_LOOSE = 2

Settings = Mapping[str, int | str]


def of_namespace() -> Settings:
    """Return the settings of a container's namespace, written before anything runs in it."""
    return {
        # CRIU cannot dump MPTCP sockets, and Go's servers use them by default
        "mptcp/enabled": 0,
        # as container engines do
        "ipv4/ping_group_range": "0 2147483647",
        "ipv4/ip_unprivileged_port_start": 0,
        # never answer: the node knows the container's hardware address
        "ipv4/conf/all/arp_ignore": 8,
        "ipv6/conf/all/accept_dad": 0,
        "ipv6/conf/default/accept_dad": 0,
        "ipv6/conf/default/accept_ra": 0,
        # no link-local address
        "ipv6/conf/default/addr_gen_mode": 1,
    }


def of_link(name: str, *, ipv6: bool) -> Settings:
    """Return the settings of either end of a container's link."""
    return {
        f"ipv4/neigh/{name}/unres_qlen_bytes": QUEUE_BYTES,
        f"ipv4/neigh/{name}/mcast_solicit": PROBES,
        f"ipv6/neigh/{name}/unres_qlen_bytes": QUEUE_BYTES,
        f"ipv6/neigh/{name}/mcast_solicit": PROBES,
        f"ipv4/conf/{name}/arp_ignore": 8,
        # a link without a carrier loses the neighbours of the packet gate (Linux 5.11 to 5.15)
        f"ipv4/conf/{name}/arp_evict_nocarrier": 0,
        f"ipv6/conf/{name}/ndisc_evict_nocarrier": 0,
        f"ipv4/conf/{name}/send_redirects": 0,
        f"ipv6/conf/{name}/disable_ipv6": int(not ipv6),
        f"ipv6/conf/{name}/addr_gen_mode": 1,
        f"ipv6/conf/{name}/accept_dad": 0,
        f"ipv6/conf/{name}/accept_ra": 0,
    }


def of_node_end(name: str) -> Settings:
    """Return the settings of the node's end, which forwards only packets from its container.

    The packet gate lifts the source filter while the container's packets are diverted.
    """
    return {f"ipv4/conf/{name}/forwarding": 1, f"ipv4/conf/{name}/rp_filter": RP_STRICT}


def of_mirror(name: str) -> Settings:
    """Return the settings of a namespace that sends back packets for a container that has left."""
    return {
        f"ipv4/conf/{name}/forwarding": 1,
        # it has no route back to the clients
        f"ipv4/conf/{name}/rp_filter": 0,
        "ipv4/conf/all/rp_filter": 0,
        "ipv4/conf/all/send_redirects": 0,
        "ipv6/conf/all/forwarding": 1,
    }


def of_mirrored_node_end(name: str) -> Settings:
    # the packets that come back have the clients' source addresses
    return {f"ipv4/conf/{name}/rp_filter": 0}


def of_underlay(name: str) -> Settings:
    return {
        f"ipv4/conf/{name}/forwarding": 1,
        # otherwise answers for containers are delayed by up to 0.8 s
        f"ipv4/neigh/{name}/proxy_delay": 0,
        f"ipv6/neigh/{name}/proxy_delay": 0,
        f"ipv6/conf/{name}/proxy_ndp": 1,
        # a diverted packet leaves by the link on which it came in; the kernel sends redirects if
        # either of the two settings allows it
        f"ipv4/conf/{name}/send_redirects": 0,
        "ipv4/conf/all/send_redirects": 0,
    }


def spread_filter() -> Settings:
    """Move the rp_filter of all links to each link. The policy stays the same.

    A filter for all links cannot be lifted for one. A container's link has no address at the node,
    so even loose filtering would drop its packets.
    """
    common = int(read("ipv4/conf/all/rp_filter") or 0)
    if common == 0:
        return {}
    links = [folder.name for folder in (ROOT / "ipv4/conf").iterdir() if folder.name != "all"]
    own = {link: int(read(f"ipv4/conf/{link}/rp_filter") or 0) for link in links}
    per_link = {f"ipv4/conf/{link}/rp_filter": max(common, mode) for link, mode in own.items()}
    return {**per_link, "ipv4/conf/all/rp_filter": RP_OFF}


def loosened(name: str) -> Settings:
    """Return a loose rp_filter for the underlay, if it is strict.

    Between hold and divert, packets of the container arrive from the source by the underlay, while
    the target's route to it is already local. Strict filtering would drop them.
    """
    effective = max(int(read(f"ipv4/conf/{link}/rp_filter") or 0) for link in ("all", name))
    return {f"ipv4/conf/{name}/rp_filter": RP_LOOSE} if effective == RP_STRICT else {}


def forwarding_ipv6(name: str) -> Settings:
    """Return the settings with which the node forwards IPv6.

    IPv6 forwarding is on for the whole node. A forwarding node ignores router advertisements unless
    accept_ra is 2.
    """
    accept_ra = f"ipv6/conf/{name}/accept_ra"
    advertisements = {accept_ra: 2} if read(accept_ra) == "1" else {}
    return {**advertisements, "ipv6/conf/all/forwarding": 1}


def read(key: str) -> str | None:
    try:
        return (ROOT / key).read_text().strip()
    except FileNotFoundError:
        return None


def write(settings: Settings) -> None:
    for key, value in settings.items():
        try:
            (ROOT / key).write_text(str(value))
        except FileNotFoundError:
            continue
        except OSError as e:
            message = f"setting net/{key} to {value}: {e.strerror}"
            raise TransshipError(message, reason="NetworkFailed") from e
