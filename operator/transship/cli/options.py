"""Options and output that several commands share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

Kubeconfig = Annotated[
    Path | None,
    typer.Option("--kubeconfig", help="Cluster to talk to; $KUBECONFIG, ~/.kube/config else."),
]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the placement.")]
AllNamespaces = Annotated[
    bool, typer.Option("--all-namespaces", "-A", help="List every namespace's.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

WIDE = 160
"""Columns where there is no terminal to say how many it has."""

out = Console(soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
progress = Console(stderr=True, soft_wrap=True)


def kubeconfig_path(given: Path | None) -> Path | None:
    """The file to use; None means the cluster that this process runs in."""
    if given is not None:
        return given
    named = os.environ.get("KUBECONFIG", "").split(":")[0]
    candidates = (Path(named),) if named else (Path.home() / ".kube" / "config",)
    return next((path for path in candidates if path.is_file()), None)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table as kubectl prints one: no frames, unset cells left empty."""
    table = Table(box=None, pad_edge=False, header_style="")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    out.print(table)
