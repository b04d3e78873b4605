"""The lab's network: one bridge with a port for each host.

The bridge has its own network namespace, out of reach of the machine's packet filter and links. A
process, the switch, holds the namespace: its end removes the bridge with all ports. Everything is
created by netlink, except for the filter of partitions, which the node image's nft loads.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import TC_H_ROOT

from transship.common.errors import InvalidInput, TransshipError
from transship.common.processes import run_blocking
from transship.lab.daemons import daemon_alive, daemon_pid, program, start_daemon
from transship.lab.state import MACHINE, Cut, LabState

# the daemon that holds the bridge's namespace
SWITCH = "switch"
BRIDGE = "bridge"
# the name of a host's link inside the host
UNDERLAY = "eth0"
RATE = re.compile(r"(?P<number>[1-9][0-9]*)(?P<unit>kbit|mbit|gbit)")
RATE_UNITS = {"kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
# tc takes bytes per second in 32 bits
MAX_RATE = 32 * 10**9
# a loaded machine's timer may be so late without a loss of throughput
BURST_SECONDS = 0.002
# two segmentation-offload packets of the largest size
MIN_BURST_BYTES = 131_072
QUEUE_SECONDS = 0.02
FILTER = "table bridge cuts"
IFA_F_NODAD = 0x02


def used_networks() -> list[IPv4Network]:
    """The networks that the machine has a route to, without the default route."""
    with IPRoute() as machine:
        routes = list(machine.get_routes(family=2))
    return [
        IPv4Network((route.get("dst"), route["dst_len"]), strict=False)
        for route in routes
        if route["dst_len"] and route.get("dst")
    ]


def create_network(directory: Path, state: LabState) -> None:
    """Create the bridge, and the machine's port and address."""
    start_daemon(directory, SWITCH, ["sleep", "infinity"], enter=[program("unshare"), "--net"])
    with _switch(directory) as switch:
        # without a fixed address, a bridge takes that of a port and changes it with the ports
        mac = f"02:54:53:{state.index:02x}:01:00"
        switch.link("add", ifname=BRIDGE, kind="bridge", address=mac, br_mcast_snooping=0)
        switch.link("set", index=_index(switch, BRIDGE), state="up")
    _add_port(directory, state, MACHINE, link=state.machine_link, pid=os.getpid())
    with IPRoute() as machine:
        _configure(machine, state, MACHINE, link=state.machine_link)


def attach(directory: Path, state: LabState, host: str, *, pid: int) -> None:
    """Connect a host: a port on the bridge, and addresses in the network namespace of `pid`."""
    _add_port(directory, state, host, link=UNDERLAY, pid=pid)
    with _inside(pid) as inside:
        inside.link("set", index=_index(inside, "lo"), state="up")
        _configure(inside, state, host, link=UNDERLAY)
        inside.route("add", dst="default", gateway=str(state.address(MACHINE)))
        if has_ipv6():
            gateway = str(state.address_v6(MACHINE))
            inside.route("add", dst="default", family=socket.AF_INET6, gateway=gateway)
    if state.link_rate is not None:
        set_rate(directory, state, host, pid=pid)


def join_tap(directory: Path, host: str) -> bool:
    """Connect the tap of a virtual machine. False if qemu has not created it yet."""
    with _switch(directory) as switch:
        for index in switch.link_lookup(ifname=host):
            switch.link("set", index=index, master=_index(switch, BRIDGE), state="up")
            return True
    return False


def detach(directory: Path, host: str) -> None:
    """Remove a host's port, so that nothing it still sends arrives, such as a FIN."""
    if not daemon_alive(directory, SWITCH):
        return
    with _switch(directory) as switch:
        for index in switch.link_lookup(ifname=host):
            switch.link("del", index=index)


def remove_network(state: LabState) -> None:
    """Remove the machine's port, which may outlive the switch for a moment."""
    with IPRoute() as machine:
        for index in machine.link_lookup(ifname=state.machine_link):
            try:
                machine.link("del", index=index)
            except NetlinkError as e:
                # the end of the switch has just removed it
                if e.code != errno.ENODEV:
                    raise


def network_exists(state: LabState) -> bool:
    with IPRoute() as machine:
        return bool(machine.link_lookup(ifname=state.machine_link))


def set_rate(directory: Path, state: LabState, host: str, *, pid: int) -> None:
    """Limit both directions of a node's link to the lab's rate, or remove the limit."""
    with _switch(directory) as switch:
        _shape(switch, host, rate=state.link_rate)
    with _inside(pid) as inside:
        _shape(inside, UNDERLAY, rate=state.link_rate)


def apply_cuts(directory: Path, state: LabState) -> None:
    """Make the bridge drop exactly the frames of `state.cuts`, in one nft transaction."""
    if state.image is None:
        raise TransshipError("cutting the network: the lab has no node image yet")
    nsenter = [program("nsenter"), f"--net=/proc/{daemon_pid(directory, SWITCH)}/ns/net"]
    nft = [program("chroot"), str(state.image), "/usr/sbin/nft", "-f", "-"]
    run_blocking([*nsenter, *nft], stdin=cut_rules(state.cuts).encode())


def cut_rules(cuts: Iterable[Cut]) -> str:
    """The whole filter as an nft script. Every port is named after its host."""
    drops = [f"    {rule}" for cut in cuts for rule in _drops(cut)]
    chain = ["  chain forward {", "    type filter hook forward priority 0; policy accept;"]
    # the first line creates the table, so that the second one can delete it
    return "\n".join([FILTER, f"delete {FILTER}", f"{FILTER} {{", *chain, *drops, "  }", "}", ""])


def has_ipv6() -> bool:
    """Whether the kernel has IPv6; it may be disabled at boot."""
    return Path("/proc/sys/net/ipv6/conf/default").exists()


def _drops(cut: Cut) -> Iterator[str]:
    which = f'iifname "{cut.source}" oifname "{cut.target}"'
    share = "" if cut.percent == 100 else f" numgen random mod 100 < {cut.percent}"
    for flow in cut.flows:
        ports = f"tcp sport {flow.source_port} tcp dport {flow.target_port}"
        yield f"{which} ip protocol tcp {ports}{share} drop"
    if not cut.flows:
        yield f"{which}{share} drop"


def parse_rate(text: str) -> int:
    """Read a rate such as 100mbit or 1gbit, in bits per second."""
    match = RATE.fullmatch(text)
    rate = int(match["number"]) * RATE_UNITS[match["unit"]] if match else 0
    if not 0 < rate <= MAX_RATE:
        raise InvalidInput(
            f"the link rate {text!r} should be like 100mbit or 1gbit, at most 32gbit"
        )
    return rate


def _add_port(directory: Path, state: LabState, host: str, *, link: str, pid: int) -> None:
    peer = {"ifname": link, "address": state.mac(host), "net_ns_pid": pid}
    with _switch(directory) as switch:
        switch.link("add", ifname=host, kind="veth", peer=peer)
        bridge = _index(switch, BRIDGE)
        switch.link("set", index=_index(switch, host), master=bridge, state="up")


def _configure(namespace: IPRoute, state: LabState, host: str, *, link: str) -> None:
    index = _index(namespace, link)
    address, prefix = str(state.address(host)), state.network.prefixlen
    namespace.addr("add", index=index, address=address, prefixlen=prefix)
    if has_ipv6():
        address, prefix = str(state.address_v6(host)), state.network_v6.prefixlen
        # without the flag, duplicate address detection blocks the address for a second
        namespace.addr("add", index=index, address=address, prefixlen=prefix, flags=IFA_F_NODAD)
    namespace.link("set", index=index, state="up")


def _shape(namespace: IPRoute, link: str, *, rate: int | None) -> None:
    for index in namespace.link_lookup(ifname=link):
        if rate is None:
            # fails without a limit
            with contextlib.suppress(NetlinkError):
                namespace.tc("del", index=index, parent=TC_H_ROOT)
            continue
        bytes_per_second = rate // 8
        burst = max(MIN_BURST_BYTES, int(bytes_per_second * BURST_SECONDS))
        limit = burst + int(bytes_per_second * QUEUE_SECONDS)
        namespace.tc("replace", "tbf", index, rate=bytes_per_second, burst=burst, limit=limit)


def _switch(directory: Path) -> IPRoute:
    return _inside(daemon_pid(directory, SWITCH))


def _inside(pid: int) -> IPRoute:
    return IPRoute(netns=f"/proc/{pid}/ns/net")


def _index(namespace: IPRoute, link: str) -> int:
    indices = namespace.link_lookup(ifname=link)
    if not indices:
        raise TransshipError(f"looking for the link {link}: it is not there")
    index: int = indices[0]
    return index
