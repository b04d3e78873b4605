import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from transship.common.errors import CommandFailed, NotFound
from transship.common.processes import run_logged
from transship.lab.cache import Say, new_log
from transship.lab.progress import Progress, Step, last_line, rough, spoken


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Screen(io.StringIO):
    """A terminal: what was on the present line, each time that it was written anew."""

    def isatty(self) -> bool:
        return True

    @property
    def drawn(self) -> list[str]:
        return self.getvalue().split("\r\x1b[K")[1:]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def step(
    title: str,
    make: Callable[[Say], object] = lambda _: None,
    *,
    done: bool = False,
    usual_seconds: int = 5,
) -> Step:
    return Step(title, title, usual_seconds, done=lambda: done, make=make)


def must_not_run(_: Say) -> None:
    pytest.fail("a step ran that should not")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (45, "45 s"), (300, "5 min"), (312.2, "5 min 12 s")]
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert spoken(seconds) == text


def test_a_long_estimate_claims_no_seconds() -> None:
    assert (rough(90), rough(595)) == ("1 min 30 s", "10 min")


def test_in_a_log_each_missing_step_is_one_line_with_its_place_and_when_it_began(
    clock: Clock,
) -> None:
    stream = io.StringIO()

    def slow(_: Say) -> None:
        clock.now += 70

    steps = [step("apples", slow, usual_seconds=60), step("pears", done=True), step("plums")]
    Progress(stream, clock=clock).run(steps)
    first, *lines = stream.getvalue().splitlines()
    assert first.startswith("2 steps, usually 1 min 5 s on two cores; logs in ")
    assert lines == [
        "        0 s  [1/2] apples (usually 1 min)",
        " 1 min 10 s  [2/2] plums (usually 5 s)",
        "everything is there, after 1 min 10 s",
    ]


def test_where_nothing_is_missing_nothing_is_made(clock: Clock) -> None:
    stream = io.StringIO()
    Progress(stream, clock=clock).run([step("apples", must_not_run, done=True)])
    assert stream.getvalue() == "everything is there already\n"


def until_drawn(screen: Screen, text: str, deadline: float = 4.0) -> None:
    """In the step itself: wait for the ticker's thread."""
    end = time.monotonic() + deadline
    while not any(text in line for line in screen.drawn):
        assert time.monotonic() < end, screen.drawn
        time.sleep(0.01)


def test_on_a_terminal_the_seconds_and_the_log_go_on_while_a_step_works(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transship.lab.progress.TICK_SECONDS", 0.01)
    screen = Screen()
    new_log("apples").write_text("a line of an earlier build\n")

    def work(_: Say) -> None:
        clock.now += 7
        until_drawn(screen, "[1/1]         7 s (usually 5 s)  apples")
        new_log("apples").write_text("compiling core\n\n")
        until_drawn(screen, "7 s (usually 5 s)  apples  compiling core")
        clock.now += 2

    Progress(screen, clock=clock, columns=80).run([step("apples", work)])
    assert "[1/1]         9 s  apples\n" in screen.drawn
    assert not any("earlier build" in line for line in screen.drawn)


def test_a_line_is_never_wider_than_the_terminal(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transship.lab.progress.TICK_SECONDS", 0.01)
    screen = Screen()

    def work(_: Say) -> None:
        new_log("apples").write_text("x" * 200)
        until_drawn(screen, "xxx")

    Progress(screen, clock=clock, columns=60).run([step("apples", work)])
    assert max(len(line) for line in screen.drawn if "xxx" in line) == 59


def test_of_a_failure_the_last_lines_and_the_log_are_shown_and_nothing_follows(
    clock: Clock,
) -> None:
    stream = io.StringIO()

    def fail(_: Say) -> None:
        run_logged(["sh", "-c", "seq 100; echo no space left >&2; exit 3"], log=new_log("apples"))

    broken = step("apples", fail)
    with pytest.raises(CommandFailed):
        Progress(stream, clock=clock).run([broken, step("pears", must_not_run)])
    lines = stream.getvalue().splitlines()
    assert lines[2] == "[1/2] apples: failed after 0 s"
    assert lines[3:5] == ["  | 82", "  | 83"]
    assert lines[-2:] == ["  | no space left", f"the whole log: {broken.log}"]
    assert broken.log.read_text().startswith("$ sh -c 'seq 100;")
    assert len(broken.log.read_text().splitlines()) == 102


def test_a_failure_without_output_shows_what_it_says_and_what_to_do(clock: Clock) -> None:
    stream = io.StringIO()

    def fail(_: Say) -> None:
        raise NotFound("running buildah: it is not installed", hint="make setup")

    with pytest.raises(NotFound):
        Progress(stream, clock=clock).run([step("apples", fail)])
    assert stream.getvalue().splitlines()[-2:] == [
        "  | running buildah: it is not installed",
        "make setup",
    ]


def test_an_interrupted_step_is_called_so(clock: Clock) -> None:
    stream = io.StringIO()

    def interrupt(_: Say) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Progress(stream, clock=clock).run([step("apples", interrupt)])
    assert stream.getvalue().splitlines()[-1] == "[1/1] apples: interrupted after 0 s"


def test_the_last_line_of_a_log_is_found_behind_a_progress_bar_and_without_colours(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x\n" * 5000 + b"10 %\r50 %\r\x1b[32mdone\x1b[0m\n\n")
    assert last_line(log) == "[32mdone[0m"
    os.truncate(log, 0)
    assert last_line(log) == ""
