import threading
import time

from transship.common import failpoints
from transship.common.failpoints import at


def test_a_place_that_nobody_asked_for_is_passed(tmp_path):
    at("Freeze.begin", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_in_the_environment_there_is_no_place_to_stop_at():
    assert failpoints._folder is None


def test_an_agent_waits_at_the_place_until_it_is_let_go(tmp_path):
    (tmp_path / "Freeze.begin").touch()
    passing = threading.Thread(target=at, args=("Freeze.begin",), kwargs={"folder": tmp_path})
    passing.start()
    reached = tmp_path / "Freeze.begin.reached"
    while not reached.exists():
        time.sleep(0.001)
    assert passing.is_alive()
    assert not (tmp_path / "Freeze.begin").exists()
    reached.unlink()
    passing.join(timeout=1.5)
    assert not passing.is_alive()
