"""The oracle of the fault tests: what it would have to find, it finds."""

from ipaddress import IPv4Address

from transship.api.migration import ContainerMigration
from transship.lab.nodes.network import cut_rules
from transship.lab.proof.fault_injection import parse_tcp_table
from transship.lab.proof.invariants import report_gaps
from transship.lab.proof.single_copy import RunHistory
from transship.lab.state import Cut, Flow


def test_a_program_that_ran_here_and_then_there_has_moved() -> None:
    order = RunHistory()
    seen = [order.record(nodes, at=at) for nodes, at in (({"a"}, 0.0), ({"a"}, 0.1), ({"b"}, 0.2))]
    assert seen == ["", "", ""]


def test_a_look_that_was_late_saw_both_ends_of_a_move() -> None:
    order = RunHistory()
    assert order.record({"a"}, at=0.0) == ""
    assert order.record({"a", "b"}, at=0.5) == ""
    assert order.record({"b"}, at=0.6) == ""


def test_a_program_that_ran_here_then_there_then_here_has_run_twice() -> None:
    order = RunHistory()
    for at, nodes in ((0.0, {"a"}), (0.1, {"b"}), (0.2, {"b"}), (0.3, {"b"})):
        assert order.record(nodes, at=at) == ""
    assert order.record({"a"}, at=0.4) == "a, then b, then a within 0.40 s"


def test_two_programs_that_run_all_the_time_are_found() -> None:
    order = RunHistory()
    found = [order.record({"a", "b"}, at=number / 10) for number in range(6)]
    assert found[-1] != ""


def test_the_end_of_a_restore_that_was_given_up_is_no_program() -> None:
    order = RunHistory()
    for at, nodes in ((0.0, {"a"}), (0.1, {"b"}), (0.2, {"a"}), (0.3, {"a"})):
        assert order.record(nodes, at=at) == ""


def test_a_move_back_takes_its_time() -> None:
    order = RunHistory()
    for at in (0.0, 1.0, 1.1, 1.2):
        order.record({"a"} if at == 0.0 else {"b"}, at=at)
    assert order.record({"a"}, at=2.5) == ""


TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0B00C80A:1D13 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0B00C80A:1D13 0C00C80A:9C50 01 00000000:00000000 00:00000000 00000000     0        0 2
   2: 0B00C80A:9C51 0D00C80A:1D13 01 00000000:00000000 00:00000000 00000000     0        0 3
   3: 0B00C80A:9C52 0C00C80A:1D13 06 00000000:00000000 00:00000000 00000000     0        0 4
"""


def test_the_connections_with_one_peer_are_those_that_are_established() -> None:
    found = tuple(parse_tcp_table(TABLE, peer=IPv4Address("10.200.0.12")))
    assert found == (Flow(source_port=7443, target_port=40016),)


def test_a_share_of_the_frames_and_single_connections_can_be_dropped() -> None:
    loss = Cut(source="node-a", target="node-b", percent=1)
    flow = Flow(source_port=7443, target_port=40016)
    dead = Cut(source="node-b", target="node-a", flows=(flow.reversed,))
    rules = cut_rules([loss, dead])
    assert 'iifname "node-a" oifname "node-b" numgen random mod 100 < 1 drop' in rules
    ports = "tcp sport 40016 tcp dport 7443"
    assert f'iifname "node-b" oifname "node-a" ip protocol tcp {ports} drop' in rules


def migration(**status: object) -> ContainerMigration:
    made = {
        "metadata": {"name": "w-1-1"},
        "spec": {
            "placementName": "w", "placementUID": "u", "sourceNode": "a", "targetNode": "b",
            "epoch": 1,
        },
        "status": status,
    }  # fmt: skip
    return ContainerMigration.model_validate(made)


def test_a_migration_that_failed_without_a_known_reason_or_its_hint_does_not_tell_the_truth() -> (
    None
):
    untold = migration(phase="Failed", reason="Whatever", message="it broke")
    assert any("in no table" in finding for finding in report_gaps(untold))
    bare = migration(phase="Failed", reason="JournalUnwritable", message="no room")
    assert any("without a hint" in finding for finding in report_gaps(bare))


def test_a_migration_under_way_need_not_have_told_anything_yet() -> None:
    assert list(report_gaps(migration(phase="Copying"))) == []
