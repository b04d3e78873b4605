"""A blocking rtnetlink socket for the few requests of a handover, and those requests.

pyroute2's IPRoute runs an event loop, refuses to work in a thread that runs one, and silently opens
another socket in every further thread. This module uses its codecs on a plain socket: one send for
several requests, from any thread, about 0.1 ms each.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from dataclasses import dataclass

from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST
from pyroute2.netlink.rtnl import (
    RTM_DELNEIGH,
    RTM_DELROUTE,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
)
from pyroute2.netlink.rtnl.ndmsg import (
    NTF_EXT_LEARNED,
    NTF_PROXY,
    NUD_INCOMPLETE,
    NUD_PERMANENT,
    ndmsg,
)
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from transship.common.errors import TransshipError
from transship.network.addresses import Address

HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
ERROR_CODE = struct.Struct("=i")
ATTRIBUTE = struct.Struct("=HH")  # length, type
LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
NLMSG_ERROR = 2
RECEIVE_BYTES = 65536
# the kernel answers within the send; others may hold the RTNL lock for tens of milliseconds
TIMEOUT_SECONDS = 5.0
# marks our routes; no daemon has this number in rt_protos
ROUTE_PROTOCOL = 84
RT_TABLE_MAIN = 254
RT_SCOPE_UNIVERSE = 0
RT_SCOPE_LINK = 253
RT_SCOPE_NOWHERE = 255
RTN_UNSPEC = 0
RTN_UNICAST = 1
RTNH_F_ONLINK = 4
IFLA_AF_SPEC = 26
IFLA_INET_CONF = 1
IPV4_DEVCONF_RP_FILTER = 8
NLA_F_NESTED = 0x8000
REPLACE = NLM_F_CREATE | NLM_F_REPLACE
GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL})


@dataclass(frozen=True)
class Request:
    """One encoded message. `tolerated`: the error numbers that mean there is nothing to do."""

    what: str
    body: bytes
    tolerated: frozenset[int] = frozenset()


class Rtnl:
    """A netlink socket bound to the network namespace of the thread that made it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._socket.settimeout(TIMEOUT_SECONDS)
        self._lock = threading.Lock()
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def apply(self, *requests: Request) -> None:
        """Send all requests at once. The kernel handles them in order. Raises the first failure."""
        if not requests:
            return
        with self._lock:
            first = self._sequence + 1
            self._sequence += len(requests)
            parts = (numbered(request.body, first + i) for i, request in enumerate(requests))
            try:
                self._socket.send(b"".join(parts))
                codes = self._acknowledged(first, len(requests))
            except OSError as e:
                raise TransshipError(f"talking to the kernel's routing: {e}") from e
        for request, code in zip(requests, codes, strict=True):
            if code and code not in request.tolerated:
                raise TransshipError(f"{request.what}: {os.strerror(code)}", reason="NetworkFailed")

    def _acknowledged(self, first: int, count: int) -> list[int]:
        codes: dict[int, int] = {}
        while len(codes) < count:
            data = self._socket.recv(RECEIVE_BYTES)
            for sequence, code in error_codes(data):
                # an older one answers a request that timed out
                if sequence >= first:
                    codes[sequence] = code
        return [codes[first + i] for i in range(count)]


def numbered(body: bytes, sequence: int) -> bytes:
    length, kind, flags, _, port = HEADER.unpack_from(body)
    return HEADER.pack(length, kind, flags, sequence, port) + body[HEADER.size :]


def error_codes(data: bytes) -> list[tuple[int, int]]:
    codes, offset = [], 0
    while offset + HEADER.size <= len(data):
        length, kind, _, sequence, _ = HEADER.unpack_from(data, offset)
        if kind == NLMSG_ERROR:
            (code,) = ERROR_CODE.unpack_from(data, offset + HEADER.size)
            codes.append((sequence, -code))
        offset += (length + 3) & ~3
    return codes


def family(address: Address) -> int:
    return int(socket.AF_INET if address.version == 4 else socket.AF_INET6)


def _neighbour(
    address: Address, *, index: int, state: int, flags: int, mac: str | None = None
) -> ndmsg:
    message = ndmsg()
    message.update(family=family(address), ifindex=index, state=state, flags=flags)
    message["attrs"] = [("NDA_DST", str(address))]
    if mac is not None:
        message["attrs"].append(("NDA_LLADDR", mac))
    return message


def _request(
    what: str,
    message: ndmsg | rtmsg,
    *,
    kind: int,
    flags: int = 0,
    tolerated: frozenset[int] = frozenset(),
) -> Request:
    message["header"]["type"] = kind
    message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK | flags
    message["header"]["sequence_number"] = 0
    message.encode()
    return Request(what, bytes(message.data), tolerated)


def resolve(address: Address, *, index: int, mac: str) -> Request:
    """Set a permanent neighbour. Packets that wait for it are sent at once, in order."""
    message = _neighbour(address, index=index, state=NUD_PERMANENT, flags=NTF_EXT_LEARNED, mac=mac)
    what = f"releasing packets to {address}"
    return _request(what, message, kind=RTM_NEWNEIGH, flags=REPLACE)


def unresolve(address: Address, *, index: int) -> Request:
    """Make packets to the neighbour wait in the kernel.

    An entry that is set INCOMPLETE by hand has no timer: the kernel neither resolves it nor gives
    it up (no ICMP error). EXT_LEARNED exempts it from the garbage collection of a full table.
    """
    message = _neighbour(address, index=index, state=NUD_INCOMPLETE, flags=NTF_EXT_LEARNED)
    what = f"holding packets to {address}"
    return _request(what, message, kind=RTM_NEWNEIGH, flags=REPLACE)


def answer_for(address: Address, *, index: int) -> Request:
    """Answer ARP and neighbour solicitations for the address on that link."""
    message = _neighbour(address, index=index, state=NUD_PERMANENT, flags=NTF_PROXY)
    return _request(f"answering for {address}", message, kind=RTM_NEWNEIGH, flags=REPLACE)


def stop_answering(address: Address, *, index: int) -> Request:
    message = _neighbour(address, index=index, state=0, flags=NTF_PROXY)
    what = f"ending answers for {address}"
    return _request(what, message, kind=RTM_DELNEIGH, tolerated=GONE)


def _route(address: Address, *, index: int, scope: int) -> rtmsg:
    message = rtmsg()
    message.update(
        family=family(address),
        dst_len=address.max_prefixlen,
        table=RT_TABLE_MAIN,
        proto=ROUTE_PROTOCOL,
        scope=scope,
        type=RTN_UNICAST,
    )
    message["attrs"] = [("RTA_DST", str(address)), ("RTA_OIF", index)]
    return message


def route_to_link(address: Address, *, index: int, source: Address | None) -> Request:
    """Route the address to a link. `source`: the source address of the node's own clients."""
    scope = RT_SCOPE_LINK if address.version == 4 else RT_SCOPE_UNIVERSE
    message = _route(address, index=index, scope=scope)
    if source is not None:
        message["attrs"].append(("RTA_PREFSRC", str(source)))
    return _request(f"routing {address}", message, kind=RTM_NEWROUTE, flags=REPLACE)


def route_via(address: Address, *, via: Address, index: int, source: Address | None) -> Request:
    message = _route(address, index=index, scope=RT_SCOPE_UNIVERSE)
    message["flags"] = RTNH_F_ONLINK
    message["attrs"].append(("RTA_GATEWAY", str(via)))
    if source is not None:
        message["attrs"].append(("RTA_PREFSRC", str(source)))
    return _request(f"routing {address} via {via}", message, kind=RTM_NEWROUTE, flags=REPLACE)


def filter_sources(*, index: int, mode: int) -> Request:
    """Set rp_filter of a link. Unlike the sysctl of that name, it works from any thread."""
    attributes = ATTRIBUTE.pack(8, IPV4_DEVCONF_RP_FILTER) + struct.pack("=I", mode)
    for kind in (IFLA_INET_CONF, int(socket.AF_INET), IFLA_AF_SPEC):
        attributes = ATTRIBUTE.pack(4 + len(attributes), kind | NLA_F_NESTED) + attributes
    body = LINK.pack(0, 0, index, 0, 0) + attributes
    head = HEADER.pack(HEADER.size + len(body), RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, 0, 0)
    return Request(f"setting rp_filter to {mode}", head + body, GONE)


def delete_route(address: Address, *, index: int) -> Request:
    """Delete Transship's route to the address over that link, and no other route."""
    message = _route(address, index=index, scope=RT_SCOPE_NOWHERE)
    message["type"] = RTN_UNSPEC
    what = f"removing the route to {address}"
    return _request(what, message, kind=RTM_DELROUTE, tolerated=GONE)
