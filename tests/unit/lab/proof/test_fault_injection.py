import pytest

from transship.common.errors import InvalidInput
from transship.lab.proof.fault_injection import Kind, Target, parse_target
from transship.lab.state import LabState

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
