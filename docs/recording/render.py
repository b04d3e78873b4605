"""Draws a terminal's recording (asciinema's cast, version 2) as one animated SVG without scripts.

Each row of the terminal is a film strip of its own: all that it ever shows, one below the other, of
which a window shows one line at a time. So a line that does not change costs nothing, and a
recording of 20 s stays far below 100 kB.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from xml.sax.saxutils import escape

import pyte

CHARACTER_WIDTH, LINE_HEIGHT, FONT_SIZE = 8.4, 19, 14
MARGIN = 16
FRAME_SECONDS = 0.05
HOLD_SECONDS = 3.0  # the last frame, before it begins anew
FONTS = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace"
BACKGROUND, FOREGROUND, BORDER, CURSOR = "#161b22", "#e6edf3", "#6e7681", "#8b949e"
COLOURS = {
    "black": "#6e7681",
    "red": "#ff7b72",
    "green": "#56d364",
    "brown": "#e3b341",
    "blue": "#79c0ff",
    "magenta": "#d2a8ff",
    "cyan": "#56d4dd",
    "white": "#e6edf3",
    "brightblack": "#6e7681",
}


@dataclass(frozen=True)
class Run:
    """Neighbouring characters of one look."""

    column: int
    text: str
    colour: str
    bold: bool


@dataclass(frozen=True)
class Line:
    runs: tuple[Run, ...]
    cursor: int | None


def render(cast: str) -> str:
    """The SVG of a recording."""
    header, *lines = cast.splitlines()
    size = json.loads(header)
    columns, rows = size["width"], size["height"]
    frames = list(_frames([json.loads(line) for line in lines], columns, rows))
    seconds = frames[-1][0] + HOLD_SECONDS
    strips = [_changes([(at, shown[row]) for at, shown in frames]) for row in range(rows)]
    width, height = columns * CHARACTER_WIDTH + 2 * MARGIN, rows * LINE_HEIGHT + 2 * MARGIN
    style, body = [_style(seconds)], []
    for row, strip in enumerate(strips):
        style.append(_keyframes(row, strip, seconds))
        if drawn := _strip(row, strip, columns):
            body.append(drawn)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
            f'width="{width:g}" height="{height:g}" role="img" '
            'aria-label="a terminal: a container is moved while its client goes on counting">',
            f"<style>{''.join(style)}</style>",
            f'<rect x=".5" y=".5" width="{width - 1:g}" height="{height - 1:g}" rx="8" '
            f'fill="{BACKGROUND}" stroke="{BORDER}"/>',
            *body,
            "</svg>\n",
        ]
    )


def _frames(
    events: list[tuple[float, str, str]], columns: int, rows: int
) -> Iterator[tuple[float, list[Line]]]:
    """The screen after all that came within a frame's time, for each in which something came."""
    screen = pyte.Screen(columns, rows)
    stream = pyte.Stream(screen)
    for number, group in groupby(events, key=lambda event: int(event[0] / FRAME_SECONDS)):
        for _, kind, text in group:
            if kind == "o":
                stream.feed(text)
        yield number * FRAME_SECONDS, [_line(screen, row) for row in range(rows)]


def _line(screen: pyte.Screen, row: int) -> Line:
    cells = [screen.buffer[row][column] for column in range(screen.columns)]
    looks = groupby(enumerate(cells), key=lambda cell: (cell[1].fg, cell[1].bold))
    runs = []
    for (colour, bold), group in looks:
        found = list(group)
        text = "".join(cell.data for _, cell in found)
        start = len(text) - len(text.lstrip())
        if text.strip():
            runs.append(Run(found[0][0] + start, text.strip(), colour, bold))
    shown = not screen.cursor.hidden and screen.cursor.y == row
    return Line(tuple(runs), screen.cursor.x if shown else None)


def _changes(shown: list[tuple[float, Line]]) -> list[tuple[float, Line]]:
    """What a row shows, and from when on."""
    return [next(group) for _, group in groupby(shown, key=lambda frame: frame[1])]


def _style(seconds: float) -> str:
    return (
        f"text{{font:{FONT_SIZE}px {FONTS};fill:{FOREGROUND};white-space:pre}}"
        ".b{font-weight:bold}"
        f".f{{animation-duration:{seconds:.2f}s;animation-iteration-count:infinite;"
        "animation-timing-function:step-end}"
        "@media(prefers-reduced-motion:reduce){.f{animation:none!important}}"
    )


def _keyframes(row: int, strip: list[tuple[float, Line]], seconds: float) -> str:
    """Who wants no motion, and whatever cannot animate, sees the last line of the strip."""
    if len(strip) == 1:
        return ""
    places = _places(strip)
    steps = [
        f"{at / seconds * 100:.2f}%{{transform:translateY({-places[line] * LINE_HEIGHT}px)}}"
        for at, line in strip
    ]
    last = -places[strip[-1][1]] * LINE_HEIGHT
    steps.append(f"to{{transform:translateY({last}px)}}")
    return (
        f"@keyframes r{row}{{{''.join(steps)}}}"
        f"#r{row}{{animation-name:r{row};transform:translateY({last}px)}}"
    )


def _places(strip: list[tuple[float, Line]]) -> dict[Line, int]:
    """Where on the strip a line is: what comes again is there once."""
    return {line: place for place, line in enumerate(dict.fromkeys(line for _, line in strip))}


def _strip(row: int, strip: list[tuple[float, Line]], columns: int) -> str:
    drawn = "".join(_drawn(line, place) for line, place in _places(strip).items())
    if not drawn:
        return ""
    width = columns * CHARACTER_WIDTH
    return (
        f'<svg x="{MARGIN}" y="{MARGIN + row * LINE_HEIGHT}" width="{width:g}" '
        f'height="{LINE_HEIGHT}"><g id="r{row}" class="f">{drawn}</g></svg>'
    )


def _drawn(line: Line, place: int) -> str:
    top = place * LINE_HEIGHT
    cursor = ""
    if line.cursor is not None:
        cursor = (
            f'<path d="M{line.cursor * CHARACTER_WIDTH:.1f} {top + 2}h8v15h-8z" fill="{CURSOR}"/>'
        )
    return cursor + "".join(_text(run, top + FONT_SIZE) for run in line.runs)


def _text(run: Run, baseline: int) -> str:
    """Its length is given, so that columns are straight whatever font there is."""
    if set(run.text) == {"─"}:
        return (
            f'<path d="M{run.column * CHARACTER_WIDTH:.1f} {baseline - 4}'
            f'h{len(run.text) * CHARACTER_WIDTH:.1f}" stroke="{BORDER}"/>'
        )
    bold = ' class="b"' if run.bold else ""
    colour = _colour(run.colour)
    fill = f' style="fill:{colour}"' if colour else ""
    return (
        f'<text x="{run.column * CHARACTER_WIDTH:.1f}" y="{baseline}" '
        f'textLength="{len(run.text) * CHARACTER_WIDTH:.1f}"{bold}{fill}>'
        f"{escape(run.text.replace(' ', chr(0xA0)))}</text>"
    )


def _colour(name: str) -> str:
    if name == "default":
        return ""
    return COLOURS.get(name, f"#{name}" if len(name) == 6 else FOREGROUND)
