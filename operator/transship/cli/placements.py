"""`transship placements`: lists where each container runs, its target node and its state."""

from __future__ import annotations

import asyncio
from pathlib import Path

from transship.api.placement import ContainerPlacement
from transship.cli.options import (
    AllNamespaces,
    AsJson,
    Kubeconfig,
    Namespace,
    kubeconfig_path,
    print_json,
    print_table,
)

COLUMNS = (
    "NAMESPACE",
    "NAME",
    "NODE",
    "TARGET",
    "PHASE",
    "REASON",
    "ADDRESS",
    "BLACKOUT-MS",
    "STEP",
)


def list_placements(
    namespace: Namespace = "default",
    all_namespaces: AllNamespaces = False,
    kubeconfig: Kubeconfig = None,
    as_json: AsJson = False,
) -> None:
    """List placements."""
    placements = asyncio.run(_fetch(kubeconfig, None if all_namespaces else namespace))
    if as_json:
        print_json([placement.dump() for placement in placements])
    else:
        print_table(COLUMNS, [_row(placement) for placement in placements])


async def _fetch(kubeconfig: Path | None, namespace: str | None) -> tuple[ContainerPlacement, ...]:
    from transship.kube.client import KubeClient  # noqa: PLC0415 - half a second of imports

    async with await KubeClient.connect(kubeconfig_path(kubeconfig)) as client:
        return await client.list(ContainerPlacement, namespace=namespace)


def _row(placement: ContainerPlacement) -> tuple[object, ...]:
    meta, spec, status = placement.metadata, placement.spec, placement.status
    last, current = status.last_migration, status.migration
    return (
        meta.namespace,
        meta.name,
        status.node,
        spec.target_node,
        status.phase,
        status.reason,
        status.address,
        None if last is None else last.blackout_milliseconds,
        None if current is None else f"{current.step} {current.percent}%",
    )
