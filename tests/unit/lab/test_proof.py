"""The oracle of the fault tests: what it would have to find, it finds."""

from transship.lab.proof.copies import RunOrder


def test_a_program_that_ran_here_and_then_there_has_moved():
    order = RunOrder()
    seen = [order.note(nodes, at=at) for nodes, at in (({"a"}, 0.0), ({"a"}, 0.1), ({"b"}, 0.2))]
    assert seen == ["", "", ""]


def test_a_look_that_was_late_saw_both_ends_of_a_move():
    order = RunOrder()
    assert order.note({"a"}, at=0.0) == ""
    assert order.note({"a", "b"}, at=0.5) == ""
    assert order.note({"b"}, at=0.6) == ""


def test_a_program_that_ran_here_then_there_then_here_has_run_twice():
    order = RunOrder()
    for at, nodes in ((0.0, {"a"}), (0.1, {"b"}), (0.2, {"b"}), (0.3, {"b"})):
        assert order.note(nodes, at=at) == ""
    assert order.note({"a"}, at=0.4) == "a, then b, then a within 0.40 s"


def test_two_programs_that_run_all_the_time_are_found():
    order = RunOrder()
    found = [order.note({"a", "b"}, at=number / 10) for number in range(6)]
    assert found[-1] != ""


def test_the_end_of_a_restore_that_was_given_up_is_no_program():
    order = RunOrder()
    for at, nodes in ((0.0, {"a"}), (0.1, {"b"}), (0.2, {"a"}), (0.3, {"a"})):
        assert order.note(nodes, at=at) == ""


def test_a_move_back_takes_its_time():
    order = RunOrder()
    for at in (0.0, 1.0, 1.1, 1.2):
        order.note({"a"} if at == 0.0 else {"b"}, at=at)
    assert order.note({"a"}, at=2.5) == ""
