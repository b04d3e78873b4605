from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from transship.runtime import logs
from transship.runtime.logs import LogLine


def line(second: int, text: str, *, stream: str = "stdout", flag: str = "F") -> str:
    return f"2026-01-31T12:00:{second:02}.123456789+00:00 {stream} {flag} {text}\n"


def test_a_line_is_time_stream_and_text():
    seen = logs.parse(line(1, "two words ", stream="stderr").encode())
    assert seen == LogLine("2026-01-31T12:00:01.123456789+00:00", "stderr", False, "two words ")
    assert seen.moment == datetime(2026, 1, 31, 12, 0, 1, 123456, UTC)


def test_a_piece_of_a_long_line_is_partial():
    seen = logs.parse(line(1, "piece", flag="P").encode())
    assert seen is not None
    assert seen.partial


def test_bytes_that_are_no_text_are_shown_all_the_same():
    seen = logs.parse(b"2026-01-31T12:00:01+00:00 stdout F \xff\n")
    assert seen is not None
    assert seen.text == "�"


@pytest.mark.parametrize("raw", [b"", b"\n", b"2026-01-31T12:00:01+00:00 stdo", b"a b c d"])
def test_what_is_no_whole_line_is_left_out(raw):
    assert logs.parse(raw) is None


def test_tail_and_since_narrow_what_is_read(tmp_path):
    path = tmp_path / "container.log"
    path.write_text("".join(line(second, str(second)) for second in range(10)))
    since = datetime(2026, 1, 31, 12, 0, 7, tzinfo=UTC)
    assert [seen.text for seen in logs.read(path, tail=2)] == ["8", "9"]
    assert [seen.text for seen in logs.read(path, since=since)] == ["7", "8", "9"]


def test_a_log_that_is_not_there_is_empty(tmp_path):
    assert list(logs.read(tmp_path / "none")) == []


async def test_following_goes_on_over_a_replaced_file_until_the_end(tmp_path):
    path, ended = tmp_path / "container.log", asyncio.Event()
    path.write_text(line(1, "old") + line(2, "one"))
    seen: list[str] = []
    async with asyncio.timeout(5):
        async for entry in logs.follow(path, ended=ended, tail=1):
            seen.append(entry.text)
            match entry.text:
                case "one":
                    with path.open("a") as file:
                        file.write(line(3, "two") + line(4, "half")[:-3])
                case "two":
                    draft = tmp_path / "draft"
                    draft.write_text(line(5, "three"))
                    draft.replace(path)
                case "three":
                    ended.set()
    assert seen == ["one", "two", "three"]


async def test_following_waits_for_a_log_that_is_not_there_yet(tmp_path):
    path, ended = tmp_path / "container.log", asyncio.Event()
    following = logs.follow(path, ended=ended)
    async with asyncio.timeout(5):
        first = asyncio.ensure_future(anext(following))
        await asyncio.sleep(0)
        path.write_text(line(1, "first"))
        assert (await first).text == "first"
    await following.aclose()
