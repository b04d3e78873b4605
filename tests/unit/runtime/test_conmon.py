from __future__ import annotations

from pathlib import Path

import pytest

from transship.common.errors import TransshipError
from transship.runtime import conmon
from transship.runtime.conmon import Console
from transship.runtime.layout import Layout

LAYOUT = Layout(Path("/state"), Path("/run/x"))


def test_a_restore_is_a_start_with_more_words() -> None:
    extra = ("--restore", "/images")
    plain = conmon.arguments(LAYOUT, container_id="id", console=Console())
    assert conmon.arguments(LAYOUT, container_id="id", console=Console(), extra=extra) == [
        *plain, *extra,
    ]  # fmt: skip


def test_runc_can_be_started_by_another_program() -> None:
    words = conmon.arguments(
        LAYOUT, container_id="id", console=Console(), before=("/bin/env", "A=b", "--")
    )
    at = words.index("-r")
    assert words[at + 1 : at + 4] == ["/bin/env", "--runtime-arg=A=b", "--runtime-arg=--"]
    assert words[at + 4].endswith("/runc")
    assert words[at + 5] == "--runtime-arg=--root=/run/x/runc"


def test_the_console_is_asked_for_by_flags() -> None:
    words = conmon.arguments(LAYOUT, container_id="id", console=Console(terminal=True, stdin=True))
    assert {"-t", "-i"} <= set(words)
    assert not {"-t", "-i"} & set(conmon.arguments(LAYOUT, container_id="id", console=Console()))


def test_the_pid_is_in_the_answer() -> None:
    assert conmon._pid_in(b'{"data": 42}\n') == 42


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"data": -1, "message": "exec: no such file\\n"}\n', "exec: no such file"),
        (b'{"data": -1}', "runc failed"),
        (b"", "without an answer"),
        (b'{"da', "without an answer"),
    ],
)
def test_anything_else_is_a_failed_start(line: bytes, message: str) -> None:
    with pytest.raises(TransshipError, match=message) as caught:
        conmon._pid_in(line)
    assert caught.value.reason == "ContainerStartFailed"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "state", tmp_path / "run")
    conmon.make_directories(layout, container_id="id")
    return layout


def test_the_exit_code_is_in_a_file(layout: Layout) -> None:
    assert conmon.exit_code(layout, "id") is None
    (layout.exits / "id").write_text("137")
    assert conmon.exit_code(layout, "id") == 137


def test_an_earlier_run_is_forgotten(layout: Layout) -> None:
    (layout.exits / "id").write_text("0")
    (layout.exits / "id.9OWKZ3").write_text("0")
    (layout.persist("id") / "oom").touch()
    conmon.forget(layout, container_id="id")
    assert list(layout.exits.iterdir()) == []
    assert conmon.exit_code(layout, "id") is None
    assert not conmon.oom_killed(layout, "id")


def test_a_pid_that_now_means_another_program_is_not_conmon(layout: Layout) -> None:
    layout.conmon_pidfile("id").write_text("1")
    assert not conmon.alive(layout, "id")
    conmon.forget(layout, container_id="id")
    assert not conmon.alive(layout, "id")
