"""Options and output functions that commands share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

Kubeconfig = Annotated[
    Path | None,
    typer.Option(
        "--kubeconfig", help="Kubeconfig of the cluster. Default: $KUBECONFIG, then ~/.kube/config."
    ),
]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the placement.")]
AllNamespaces = Annotated[bool, typer.Option("--all-namespaces", "-A", help="List all namespaces.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

WIDE = 160
"""Columns of the output without a terminal."""

GAP = "   "
"""Between two columns, as in kubectl."""

out = Console(soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
progress = Console(stderr=True, soft_wrap=True)


def kubeconfig_path(given: Path | None) -> Path | None:
    """The kubeconfig to use. None stands for the cluster that this process runs in."""
    if given is not None:
        return given
    named = os.environ.get("KUBECONFIG", "").split(":")[0]
    candidates = (Path(named),) if named else (Path.home() / ".kube" / "config",)
    return next((path for path in candidates if path.is_file()), None)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table as kubectl does: without frames, unset cells empty, nothing truncated."""
    for line in table_lines(columns, rows):
        typer.echo(line)


def table_lines(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    texts = [["" if cell is None else str(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [
        GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in texts
    ]
