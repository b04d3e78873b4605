import threading
import time
from pathlib import Path

from transship.common import failpoints
from transship.common.failpoints import at


def test_a_place_without_a_file_is_passed(tmp_path: Path) -> None:
    at("Freeze.begin", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_in_the_environment_no_place_stops_the_agent() -> None:
    assert failpoints._folder is None


def test_an_agent_waits_at_a_place_until_the_reached_file_is_removed(tmp_path: Path) -> None:
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
