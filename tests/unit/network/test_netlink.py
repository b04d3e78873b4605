from __future__ import annotations

import errno
import struct
from ipaddress import ip_address

from transship.network import netlink
from transship.network.netlink import Request

V4, V6 = ip_address("10.200.128.5"), ip_address("fd00::8005")
NODE = ip_address("10.200.0.12")
NLM_F_REQUEST_ACK = 0x5
REPLACE = 0x500


def head(request: Request) -> tuple[int, int, int]:
    length, kind, flags = struct.unpack_from("=IHH", request.body)
    return length, kind, flags


def test_opening_sets_the_neighbour_for_good() -> None:
    request = netlink.resolve(V4, index=7, mac="0a:58:0a:c8:80:05")
    assert head(request) == (len(request.body), 28, NLM_F_REQUEST_ACK | REPLACE)
    family, index, state, flags = struct.unpack_from("=B3xiHB", request.body, 16)
    assert (family, index, state, flags) == (2, 7, 0x80, 0x10)
    assert V4.packed in request.body
    assert bytes.fromhex("0a580ac88005") in request.body


def test_closing_leaves_the_neighbour_without_an_answer() -> None:
    request = netlink.unresolve(V6, index=7)
    family, index, state, flags = struct.unpack_from("=B3xiHB", request.body, 16)
    assert (family, index, state, flags) == (10, 7, 0x01, 0x10)
    assert V6.packed in request.body


def test_a_route_via_a_node_names_it_and_our_mark() -> None:
    request = netlink.route_via(V4, via=NODE, index=2, source=None)
    assert head(request)[1:] == (24, NLM_F_REQUEST_ACK | REPLACE)
    family, prefix, _, _, table, protocol = struct.unpack_from("=6B", request.body, 16)
    assert (family, prefix, table, protocol) == (2, 32, 254, netlink.ROUTE_PROTOCOL)
    assert NODE.packed in request.body


def test_a_route_to_the_link_carries_what_the_nodes_clients_speak_from() -> None:
    assert NODE.packed in netlink.route_to_link(V4, index=7, source=NODE).body


def test_what_is_gone_already_need_not_be_removed() -> None:
    for request in (netlink.delete_route(V4, index=2), netlink.stop_answering(V4, index=2)):
        assert {errno.ESRCH, errno.ENOENT} <= request.tolerated


def test_each_request_of_a_send_has_its_own_number() -> None:
    body = netlink.delete_route(V4, index=2).body
    assert netlink.numbered(body, 9)[:8] == body[:8]
    assert struct.unpack_from("=I", netlink.numbered(body, 9), 8) == (9,)
    assert netlink.numbered(body, 9)[12:] == body[12:]


def test_the_kernels_answers_are_told_apart_by_number() -> None:
    def answer(sequence: int, code: int, *, padding: int) -> bytes:
        return struct.pack("=IHHIIi", 20 + padding, 2, 0, sequence, 0, -code) + bytes(padding)

    unasked = struct.pack("=IHHII", 16, 24, 0, 5, 0)
    data = answer(5, 0, padding=16) + unasked + answer(6, errno.ESRCH, padding=28)
    assert netlink.error_codes(data) == [(5, 0), (6, errno.ESRCH)]
