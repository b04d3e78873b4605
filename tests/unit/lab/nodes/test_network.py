import pytest

from transship.common.errors import InvalidInput
from transship.lab.nodes.network import cut_rules, parse_rate
from transship.lab.state import Cut, Flow


@pytest.mark.parametrize(
    ("text", "bits"),
    [("1gbit", 10**9), ("100mbit", 10**8), ("64kbit", 64000), ("32gbit", 32 * 10**9)],
)
def test_a_rate_is_read_as_people_write_it(text: str, bits: int) -> None:
    assert parse_rate(text) == bits


@pytest.mark.parametrize("text", ["", "1", "0gbit", "1 gbit", "-1gbit", "1GB", "33gbit", "1.5gbit"])
def test_other_rates_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInput, match="100mbit"):
        parse_rate(text)


def test_a_cut_drops_the_frames_of_one_direction() -> None:
    rules = cut_rules([Cut(source="node-a", target="operator")])
    assert 'iifname "node-a" oifname "operator" drop' in rules
    assert 'iifname "operator"' not in rules


def test_without_cuts_the_filter_is_replaced_by_an_empty_one() -> None:
    rules = cut_rules([])
    assert "delete table bridge cuts" in rules
    assert "drop" not in rules


def test_a_share_of_the_frames_and_single_connections_can_be_dropped() -> None:
    loss = Cut(source="node-a", target="node-b", percent=1)
    flow = Flow(source_port=7443, target_port=40016)
    dead = Cut(source="node-b", target="node-a", flows=(flow.reversed,))
    rules = cut_rules([loss, dead])
    assert 'iifname "node-a" oifname "node-b" numgen random mod 100 < 1 drop' in rules
    ports = "tcp sport 40016 tcp dport 7443"
    assert f'iifname "node-b" oifname "node-a" ip protocol tcp {ports} drop' in rules
