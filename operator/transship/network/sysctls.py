"""The kernel's network settings that the design rests on, as tables, and writing them.

They are written in the network namespace of the calling thread. A setting that this kernel does not
have (no IPv6, no MPTCP) is skipped: nothing then depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from transship.common.errors import TransshipError

ROOT = Path("/proc/sys/net")
QUEUE_BYTES = (
    16 * 1024 * 1024
)  # what waits for one held address; the default holds 92 datagrams of 1 KB
PROBES = 100_000  # one a second: outlives any migration, and their sum must not overflow an int
RP_OFF = 0
RP_STRICT = 1
RP_LOOSE = 2

Settings = Mapping[str, int | str]


def of_namespace() -> Settings:
    """Inside a container's namespace, before anything runs in it."""
    return {
        "mptcp/enabled": 0,  # CRIU cannot dump MPTCP sockets, Go's servers use them by default
        "ipv4/ping_group_range": "0 2147483647",  # as container engines do
        "ipv4/ip_unprivileged_port_start": 0,
        "ipv4/conf/all/arp_ignore": 8,  # never answers: the node knows its hardware address
        "ipv6/conf/all/accept_dad": 0,
        "ipv6/conf/default/accept_dad": 0,
        "ipv6/conf/default/accept_ra": 0,
        "ipv6/conf/default/addr_gen_mode": 1,  # no link-local address
    }


def of_link(name: str, *, ipv6: bool) -> Settings:
    """Either end of a container's link."""
    return {
        f"ipv4/neigh/{name}/unres_qlen_bytes": QUEUE_BYTES,
        f"ipv4/neigh/{name}/mcast_solicit": PROBES,
        f"ipv6/neigh/{name}/unres_qlen_bytes": QUEUE_BYTES,
        f"ipv6/neigh/{name}/mcast_solicit": PROBES,
        f"ipv4/conf/{name}/arp_ignore": 8,
        # the doors are neighbours, which a link without a carrier loses (Linux 5.11; from 5.16 not)
        f"ipv4/conf/{name}/arp_evict_nocarrier": 0,
        f"ipv6/conf/{name}/ndisc_evict_nocarrier": 0,
        f"ipv4/conf/{name}/send_redirects": 0,
        f"ipv6/conf/{name}/disable_ipv6": int(not ipv6),
        f"ipv6/conf/{name}/addr_gen_mode": 1,
        f"ipv6/conf/{name}/accept_dad": 0,
        f"ipv6/conf/{name}/accept_ra": 0,
    }


def of_node_end(name: str) -> Settings:
    """The node's end: routes for the container, and lets it speak only from its own address.

    While it is diverted, and its way back is elsewhere, the filter is lifted (see doors).
    """
    return {f"ipv4/conf/{name}/forwarding": 1, f"ipv4/conf/{name}/rp_filter": RP_STRICT}


def of_mirror(name: str) -> Settings:
    """Inside a namespace that sends back what waited for a container that went on elsewhere."""
    return {
        f"ipv4/conf/{name}/forwarding": 1,
        f"ipv4/conf/{name}/rp_filter": 0,  # it has no way back to the clients
        "ipv4/conf/all/rp_filter": 0,
        "ipv4/conf/all/send_redirects": 0,
        "ipv6/conf/all/forwarding": 1,
    }


def of_mirrored_node_end(name: str) -> Settings:
    return {f"ipv4/conf/{name}/rp_filter": 0}  # its packets carry the clients' addresses


def of_underlay(name: str) -> Settings:
    return {
        f"ipv4/conf/{name}/forwarding": 1,
        f"ipv4/neigh/{name}/proxy_delay": 0,  # else answers for containers wait up to 0.8 s
        f"ipv6/neigh/{name}/proxy_delay": 0,
        f"ipv6/conf/{name}/proxy_ndp": 1,
        # a diverted packet leaves where it came in; the kernel sends redirects if either says so
        f"ipv4/conf/{name}/send_redirects": 0,
        "ipv4/conf/all/send_redirects": 0,
    }


def spread_filter() -> Settings:
    """Say for each link what is said for all, which could not be lifted for one: the same policy.

    A container's link has no address at the node: loose filtering hears nothing on it either.
    """
    every = int(read("ipv4/conf/all/rp_filter") or 0)
    if every == 0:
        return {}
    links = [each.name for each in (ROOT / "ipv4/conf").iterdir() if each.name != "all"]
    present = {each: int(read(f"ipv4/conf/{each}/rp_filter") or 0) for each in links}
    each_alone = {f"ipv4/conf/{name}/rp_filter": max(every, own) for name, own in present.items()}
    return {**each_alone, "ipv4/conf/all/rp_filter": RP_OFF}


def loosened(name: str) -> Settings:
    """Between hold and divert the target hears a container elsewhere whose route is local."""
    effective = max(int(read(f"ipv4/conf/{each}/rp_filter") or 0) for each in ("all", name))
    return {f"ipv4/conf/{name}/rp_filter": RP_LOOSE} if effective == RP_STRICT else {}


def forwarding_ipv6(name: str) -> Settings:
    """IPv6 forwards per node; a forwarding one hears router advertisements only at accept_ra=2."""
    heard = {f"ipv6/conf/{name}/accept_ra": 2} if read(f"ipv6/conf/{name}/accept_ra") == "1" else {}
    return {**heard, "ipv6/conf/all/forwarding": 1}


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
