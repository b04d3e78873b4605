"""`transship bench`: measures moves in a lab. All published figures come from here."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

import typer

from transship.api.placement import Strategy
from transship.api.quantity import bytes_of
from transship.cli.options import AsJson, print_json, print_table, progress
from transship.common.errors import InvalidInput
from transship.lab import cluster
from transship.lab.nodes.network import parse_rate
from transship.lab.proof import bench, fault_injection
from transship.lab.proof.soak import soak as run_soak
from transship.lab.state import LabState, find_state, lab_dir

app = typer.Typer(no_args_is_help=True)

SOAK_NODES = 3
COLUMNS = ("STRATEGY", "BLACKOUT-MS", "CRIU-MS", "STALL-MS", "TOTAL-MS", "BYTES", "COPY-MB/S")


@app.callback()
def _bench() -> None:
    """Measure moves in a lab."""


@app.command("migrate")
def migrate(  # noqa: PLR0917 - typer hands options over by position
    memory: Annotated[str, typer.Option(help="Memory of the container.")] = "256Mi",
    dirty: Annotated[str, typer.Option(help="Memory that it writes per second.")] = "20Mi",
    strategy: Annotated[Strategy, typer.Option(help="Strategy of the moves.")] = Strategy.AUTO,
    runs: Annotated[int, typer.Option(min=1, help="Number of measured moves.")] = 10,
    link_rate: Annotated[
        str | None, typer.Option(help="Limit the nodes' links, such as to 1gbit.")
    ] = None,
    parallel: Annotated[
        int, typer.Option(min=1, help="Number of containers that move at once.")
    ] = 1,
    name: Annotated[
        str, typer.Option(help="Lab to use; a missing one is created and removed.")
    ] = "bench",
    as_json: AsJson = False,
) -> None:
    """Move a container between two nodes under a client, and print blackouts and durations."""
    job = bench.Job(
        memory=_bytes("--memory", memory),
        dirty=_bytes("--dirty", dirty),
        strategy=strategy,
        runs=runs,
        parallel=parallel,
    )
    with _lab(name, rate=None if link_rate is None else parse_rate(link_rate)) as state:
        result = asyncio.run(bench.measure(state, job, say=progress.print))
    if as_json:
        print_json({"runs": [asdict(run) for run in result.runs], "median": result.medians()})
    else:
        _print(result)


def _print(result: bench.Result) -> None:
    keys = ("blackout_ms", "criu_ms", "stall_ms", "total_ms", "bytes_sent", "copy_mb_per_second")
    rows = [(run.strategy, *(getattr(run, key) for key in keys)) for run in result.runs]
    medians = result.medians()
    print_table(COLUMNS, [*rows, ("median", *(medians[key] for key in keys))])
    rows_of_parts = [
        (f"  {name}" if bench.is_nested(name) else name, microseconds / 1e3)
        for name, microseconds in result.median_parts().items()
    ]
    print_table(("PART OF THE BLACKOUT", "MEDIAN MS"), rows_of_parts)


@app.command("soak")
def soak(
    minutes: Annotated[float, typer.Option(min=0.1, help="Duration.")] = 30,
    seed: Annotated[int | None, typer.Option(help="Seed of all random choices.")] = None,
    name: Annotated[
        str, typer.Option(help="Name of the lab, which is created and removed.")
    ] = "soak",
    as_json: AsJson = False,
) -> None:
    """Move twelve containers at random under random faults. Exit code 1 on any violation."""
    chosen = secrets.randbelow(1 << 16) if seed is None else seed
    progress.print(f"seed {chosen}")
    try:
        state = cluster.up(name, SOAK_NODES, say=progress.print)
        report = run_soak(state, minutes=minutes, seed=chosen, say=progress.print)
    finally:
        cluster.down(name)
    if as_json:
        print_json(asdict(report))
    else:
        print_table(("FIGURE", "VALUE"), [(key, str(value)) for key, value in report.figures()])
    if report.violations:
        raise typer.Exit(1)


@contextmanager
def _lab(name: str, *, rate: int | None) -> Iterator[LabState]:
    """The lab of this name; a missing one exists during the measurement only."""
    directory = lab_dir(name)
    state = find_state(directory)
    if state is not None and state.kubeconfig is not None:
        previous = state.link_rate
        try:
            yield fault_injection.limit_rate(directory, state, rate)
        finally:
            fault_injection.limit_rate(directory, state, previous)
        return
    try:
        yield cluster.up(name, 2, say=progress.print, link_rate=rate)
    finally:
        cluster.down(name)


def _bytes(option: str, text: str) -> int:
    try:
        return bytes_of(text)
    except ValueError as e:
        raise InvalidInput(f"{option} {e}") from e
