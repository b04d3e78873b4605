from ipaddress import IPv4Address

import pytest

from transship.common.errors import InvalidInput
from transship.lab.proof.fault_injection import Kind, Target, parse_target, parse_tcp_table
from transship.lab.state import Flow, LabState

STATE = LabState(name="lab", index=0, nodes=("node-a",))


@pytest.mark.parametrize(
    ("text", "target", "daemon"),
    [
        ("operator", Target(Kind.OPERATOR, "operator"), "operator"),
        ("agent:node-a", Target(Kind.AGENT, "node-a"), "agent-node-a"),
    ],
)
def test_a_service_is_named_by_its_kind_and_node(text: str, target: Target, daemon: str) -> None:
    assert parse_target(text, STATE) == target
    assert target.daemon == daemon


def test_a_node_is_a_target_as_a_whole() -> None:
    assert parse_target("node:node-a", STATE) == Target(Kind.NODE, "node-a")


@pytest.mark.parametrize("text", ["", "node", "node:", "agent:node-b", "node-a", "operator:node-a"])
def test_anything_else_is_refused_with_what_would_be_accepted(text: str) -> None:
    with pytest.raises(InvalidInput, match="node-a"):
        parse_target(text, STATE)


TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0B00C80A:1D13 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0B00C80A:1D13 0C00C80A:9C50 01 00000000:00000000 00:00000000 00000000     0        0 2
   2: 0B00C80A:9C51 0D00C80A:1D13 01 00000000:00000000 00:00000000 00000000     0        0 3
   3: 0B00C80A:9C52 0C00C80A:1D13 06 00000000:00000000 00:00000000 00000000     0        0 4
"""


def test_the_connections_with_one_peer_are_those_that_are_established() -> None:
    flows = tuple(parse_tcp_table(TABLE, peer=IPv4Address("10.200.0.12")))
    assert flows == (Flow(source_port=7443, target_port=40016),)
