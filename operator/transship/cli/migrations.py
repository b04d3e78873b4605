"""`transship migrations`: lists current and past migrations; --watch shows live progress."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from transship.api.migration import ContainerMigration, MigrationPhase
from transship.api.placement import ContainerPlacement
from transship.cli.options import (
    AllNamespaces,
    AsJson,
    Kubeconfig,
    Namespace,
    kubeconfig_path,
    out,
    print_json,
    print_table,
    table_lines,
)

COLUMNS = ("NAME", "FROM", "TO", "PHASE", "PROGRESS", "BLACKOUT-MS", "REASON")
REFRESH_SECONDS = 0.25
BAR_CELLS = 10
# narrower terminals have no room for progress bars
BAR_COLUMNS = 100


def list_migrations(
    namespace: Namespace = "default",
    all_namespaces: AllNamespaces = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show progress until all have finished.")
    ] = False,
    kubeconfig: Kubeconfig = None,
    as_json: AsJson = False,
) -> None:
    """List migrations."""
    migrations = asyncio.run(_fetch(kubeconfig, None if all_namespaces else namespace, watch=watch))
    if as_json:
        print_json([migration.dump() for migration in migrations])
    elif not watch:
        print_table(COLUMNS, [_row(migration) for migration in migrations])


async def _fetch(
    kubeconfig: Path | None, namespace: str | None, *, watch: bool
) -> tuple[ContainerMigration, ...]:
    from transship.kube.client import KubeClient  # noqa: PLC0415 - half a second of imports

    async with await KubeClient.connect(kubeconfig_path(kubeconfig)) as client:
        migrations = await client.list(ContainerMigration, namespace=namespace)
        if not watch:
            return migrations
        with Live(_table(migrations), console=out) as live:
            while True:
                placements = await client.list(ContainerPlacement, namespace=namespace)
                # after the placements: the operator creates a migration, then updates the status
                migrations = await client.list(ContainerMigration, namespace=namespace)
                live.update(_table(migrations))
                if settled(placements, migrations):
                    break
                await asyncio.sleep(REFRESH_SECONDS)
        if not out.is_terminal:
            # rich ends the last line only on terminals
            out.print()
        return migrations


def settled(
    placements: Iterable[ContainerPlacement], migrations: Iterable[ContainerMigration]
) -> bool:
    """Whether the operator has observed every edit, and every migration has finished."""
    return all(
        placement.status.observed_generation >= placement.metadata.generation
        for placement in placements
    ) and all(_finished(migration) for migration in migrations)


def _finished(migration: ContainerMigration) -> bool:
    return migration.status.phase is not None and migration.status.phase.finished


def _table(migrations: tuple[ContainerMigration, ...]) -> Group:
    with_bar = out.width >= BAR_COLUMNS
    rows = [_row(migration, with_bar=with_bar) for migration in migrations]
    lines = table_lines(COLUMNS, rows)
    return Group(*(Text(line, no_wrap=True, overflow="crop") for line in lines))


def _row(migration: ContainerMigration, *, with_bar: bool = False) -> tuple[object, ...]:
    meta, spec, status = migration.metadata, migration.spec, migration.status
    succeeded = status.phase is MigrationPhase.SUCCEEDED
    return (
        meta.name if meta.namespace == "default" else f"{meta.namespace}/{meta.name}",
        spec.source_node,
        spec.target_node,
        status.phase,
        _bar(status.percent) if with_bar else f"{status.percent}%",
        status.blackout_milliseconds,
        # the phase already says that it succeeded
        None if succeeded else status.reason,
    )


def _bar(percent: int) -> str:
    full = percent * BAR_CELLS // 100
    return f"{'━' * full}{'╌' * (BAR_CELLS - full)} {percent:3d}%"
