"""The tree of all commands."""

from __future__ import annotations

from typing import Annotated

import typer

from transship import __version__
from transship.cli import bench, certificates, demo, lab, logs, migrations, placements, plan
from transship.cli.doctor.command import diagnose

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Move running containers between hosts without stopping them.",
)
app.add_typer(lab.app, name="lab", help="A whole cluster on this machine, for tests.")
app.add_typer(bench.app, name="bench", help="Measure moves in a lab.")
app.command("placements")(placements.list_placements)
app.command("migrations")(migrations.list_migrations)
app.command("logs")(logs.show_logs)
app.command("plan")(plan.plan_move)
app.command("doctor")(diagnose)
app.command("demo")(demo.run_demo)
app.command("certificates")(certificates.issue)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"transship {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Move running containers between hosts without stopping them."""
