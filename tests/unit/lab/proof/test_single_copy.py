"""A program that runs on two nodes at the same time is found; one that moves is not."""

from transship.lab.proof.single_copy import RunHistory


def test_a_program_that_ran_on_one_node_and_then_on_another_has_moved() -> None:
    history = RunHistory()
    violations = [
        history.record(nodes, at=at) for nodes, at in (({"a"}, 0.0), ({"a"}, 0.1), ({"b"}, 0.2))
    ]
    assert violations == ["", "", ""]


def test_a_late_sample_may_show_both_ends_of_a_move() -> None:
    history = RunHistory()
    assert history.record({"a"}, at=0.0) == ""
    assert history.record({"a", "b"}, at=0.5) == ""
    assert history.record({"b"}, at=0.6) == ""


def test_a_program_that_ran_on_a_then_b_then_a_has_run_twice() -> None:
    history = RunHistory()
    for at, nodes in ((0.0, {"a"}), (0.1, {"b"}), (0.2, {"b"}), (0.3, {"b"})):
        assert history.record(nodes, at=at) == ""
    assert history.record({"a"}, at=0.4) == "a, then b, then a within 0.40 s"


def test_two_programs_that_run_all_the_time_are_found() -> None:
    history = RunHistory()
    violations = [history.record({"a", "b"}, at=number / 10) for number in range(6)]
    assert violations[-1] != ""


def test_the_end_of_an_abandoned_restore_is_no_second_copy() -> None:
    history = RunHistory()
    for at, nodes in ((0.0, {"a"}), (0.1, {"b"}), (0.2, {"a"}), (0.3, {"a"})):
        assert history.record(nodes, at=at) == ""


def test_a_slow_move_back_is_no_second_copy() -> None:
    history = RunHistory()
    for at in (0.0, 1.0, 1.1, 1.2):
        history.record({"a"} if at == 0.0 else {"b"}, at=at)
    assert history.record({"a"}, at=2.5) == ""
