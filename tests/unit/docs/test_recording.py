"""The recording of the README: what its picture shows at a moment is what the terminal showed."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from recording.render import HOLD_SECONDS, LINE_HEIGHT, render

DOCS = Path(__file__).parents[3] / "docs" / "recording"
SVG = "{http://www.w3.org/2000/svg}"


def cast(*events: tuple[float, str], width: int = 40, height: int = 3) -> str:
    header = {"version": 2, "width": width, "height": height}
    return "\n".join([json.dumps(header), *(json.dumps([at, "o", text]) for at, text in events)])


def required(pattern: str, text: str) -> re.Match[str]:
    match = re.search(pattern, text, re.MULTILINE)
    assert match is not None, pattern
    return match


def duration(style: str) -> float:
    """Of the animation, in seconds."""
    return float(required(r"animation-duration:([\d.]+)s", style)[1])


def screen_at(picture: str, seconds: float) -> list[str]:
    """The rows of the picture at a moment, worked out as a browser would."""
    root = ET.fromstring(picture)
    style = root.findtext(f"{SVG}style", "")
    length = duration(style)
    return [_row_at(row, style, seconds / length * 100) for row in root.findall(f"{SVG}svg")]


def _row_at(row: ET.Element, style: str, percent: float) -> str:
    strip = row.find(f"{SVG}g")
    assert strip is not None
    frames = re.search(rf"@keyframes {strip.get('id')}{{(.*?}})}}", style)
    offset = 0
    for at, shift in re.findall(
        r"([\d.]+)%{transform:translateY\((-?\d+)px\)}", frames[1] if frames else ""
    ):
        offset = -int(shift) if float(at) <= percent else offset
    texts = [
        text
        for text in strip.findall(f"{SVG}text")
        if offset <= int(text.get("y", "")) < offset + LINE_HEIGHT
    ]
    return " ".join((text.text or "").replace("\xa0", " ") for text in texts)


def test_each_moment_shows_what_the_terminal_showed() -> None:
    picture = render(cast((0.0, "$ "), (1.0, "ls\r\n"), (2.0, "a  b\r\n"), (3.0, "\x1b[1;1Hxyz")))
    assert screen_at(picture, 0.5)[0] == "$"
    assert screen_at(picture, 1.5)[0] == "$ ls"
    assert screen_at(picture, 2.5) == ["$ ls", "a  b", ""]
    assert screen_at(picture, 3.0 + HOLD_SECONDS - 0.1)[0] == "xyzs"


def test_what_a_terminal_shows_is_text_and_no_markup() -> None:
    picture = render(cast((0.0, "<b>&amp;"), (0.5, "!")))
    assert screen_at(picture, 0.7)[0] == "<b>&amp;!"


def test_bold_and_coloured_characters_are_so_in_the_picture() -> None:
    picture = render(cast((0.0, "\x1b[1mA\x1b[0m \x1b[32mB\x1b[0m")))
    bold, green = ET.fromstring(picture).iter(f"{SVG}text")
    assert (bold.text, bold.get("class")) == ("A", "b")
    assert (green.text, green.get("style")) == ("B", "fill:#56d364")


def test_a_row_that_comes_again_is_there_once() -> None:
    picture = render(cast(*((at, f"\r{at % 2}") for at in range(20))))
    assert len(list(ET.fromstring(picture).iter(f"{SVG}text"))) == 2


@pytest.fixture(scope="module")
def published() -> str:
    return (DOCS / "demo.svg").read_text()


def test_the_published_picture_is_drawn_from_the_published_recording(published: str) -> None:
    assert published == render((DOCS / "demo.cast").read_text())


def test_the_published_picture_is_small_and_shows_a_move_without_a_broken_connection(
    published: str,
) -> None:
    assert len(published.encode()) < 150_000
    end = "\n".join(screen_at(published, 1e6))
    assert re.search(r"counter +node-b +node-b +Running", end)
    assert re.search(r"[\d,]+ answers in order on one TCP connection", end.replace("  ", " "))


def test_the_answers_go_on_through_the_whole_recording(published: str) -> None:
    """The client's number rises from each second to the next: the move did not stop it."""
    root = ET.fromstring(published)
    length = duration(root.findtext(f"{SVG}style", ""))
    seconds = range(1, int(length - HOLD_SECONDS))
    rows = ["\n".join(screen_at(published, at)) for at in seconds]
    numbers = [
        int(required(r"([\d,]+) answers|^ *([\d,]+)$", row)[0].split()[0].replace(",", ""))
        for row in rows
    ]
    assert numbers == sorted(set(numbers))
