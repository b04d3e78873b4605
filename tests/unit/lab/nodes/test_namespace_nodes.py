from pathlib import Path

from transship.lab.nodes.namespace_nodes import hosts_file, node_alive
from transship.lab.state import LabState

STATE = LabState(name="lab", index=0, nodes=("node-a", "node-b"))


def test_every_node_knows_all_hosts_by_name() -> None:
    lines = hosts_file(STATE).splitlines()
    assert "127.0.0.1 localhost" in lines
    assert "10.200.0.2 operator" in lines
    assert "10.200.0.12 node-b" in lines


def test_a_node_that_was_never_booted_does_not_run(tmp_path: Path) -> None:
    assert not node_alive(tmp_path, "node-a")
