"""`transship plan`: what a move would be like, and what would make it fail. Moves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from transship.agentapi.client.agent import AgentClient
from transship.agentapi.client.transport import context_for
from transship.agentapi.containers import ContainerReport
from transship.agentapi.migrations import Peer
from transship.agentapi.predictions import PredictionReply, PredictionRequest
from transship.api.migration import ContainerMigration
from transship.api.node_agent import NodeAgent
from transship.api.obstacle import Obstacle, from_error
from transship.api.placement import ContainerPlacement, MigrationSettings, Strategy
from transship.cli.access import Certificates, operator_secret, tls_files
from transship.cli.options import (
    AsJson,
    Kubeconfig,
    Namespace,
    kubeconfig_path,
    print_json,
    print_table,
)
from transship.common.errors import NotFound, Refused, TransshipError
from transship.common.tls import TlsFiles
from transship.controller.migration.preflight import Facts, obstacles_of
from transship.controller.node.nodes import Node
from transship.controller.node.requests import demands_by_node
from transship.kube.client import KubeClient

MEBI = 1 << 20


def plan_move(  # noqa: PLR0917 - typer hands options over by position
    name: Annotated[str, typer.Argument(help="Placement.")],
    to: Annotated[str, typer.Option(help="The node that it would be moved to.")],
    namespace: Namespace = "default",
    strategy: Annotated[Strategy | None, typer.Option(help="Instead of the placement's.")] = None,
    kubeconfig: Kubeconfig = None,
    certificates: Certificates = None,
    as_json: AsJson = False,
) -> None:
    """Measure a running container and the link, and say what moving it would be like.

    Exit code 1 when something would make the move fail.
    """
    found, obstacles = asyncio.run(
        _ask(name, namespace, to=to, strategy=strategy, access=(kubeconfig, certificates))
    )
    if as_json:
        print_json(_as_json(found, obstacles))
    else:
        _print(found, obstacles)
    raise typer.Exit(1 if obstacles else 0)


async def _ask(
    name: str,
    namespace: str,
    *,
    to: str,
    strategy: Strategy | None,
    access: tuple[Path | None, Path | None],
) -> tuple[PredictionReply | None, list[Obstacle]]:
    kubeconfig, certificates = access
    async with await KubeClient.connect(kubeconfig_path(kubeconfig)) as client:
        placement = await client.get(ContainerPlacement, name=name, namespace=namespace)
        node = placement.status.node
        if node is None:
            raise NotFound(f"placement {name} is on no node yet")
        if node == to:
            raise Refused(f"placement {name} is on {to} already")
        source, target = [await client.get(NodeAgent, name=each) for each in (node, to)]
        placements = (await client.listing(ContainerPlacement)).resources
        migrations = (await client.listing(ContainerMigration)).resources
        secret = await operator_secret(client, certificates)
    settings = _settings(placement, strategy)
    facts = Facts(
        Node(source),
        Node(target, demands=demands_by_node(placements, migrations).get(to, ())),
        placement.spec.container,
        placement.status.held_addresses,
        settings.strategy,
        placement.metadata.uid,
    )
    obstacles = list(obstacles_of(facts))
    order = PredictionRequest(target=_peer(target), settings=settings)
    with tls_files(secret) as files:
        try:
            report, found = await _looked_at(source, placement.metadata.uid, order, files=files)
        except TransshipError as e:
            return None, [*obstacles, from_error(e)]
    reported = [each for each in report.obstacles if each.concerns(settings.strategy)]
    obstacles += [Obstacle(each.reason, each.message, each.hint) for each in reported]
    if found.reason:
        obstacles.append(Obstacle(found.reason, found.message, found.hint))
    return found, obstacles


def _settings(placement: ContainerPlacement, strategy: Strategy | None) -> MigrationSettings:
    settings = placement.spec.migration
    if strategy is None:
        return settings
    return settings.model_copy(update={"strategy": strategy})


def _peer(agent: NodeAgent) -> Peer:
    status = agent.status
    return Peer(node=agent.metadata.name, address=status.address, endpoint=status.endpoint)


async def _looked_at(
    agent: NodeAgent, container: str, order: PredictionRequest, *, files: TlsFiles
) -> tuple[ContainerReport, PredictionReply]:
    """The report comes last: the agent looks at the processes for the prediction."""
    node = agent.metadata.name
    client = AgentClient(node, agent.status.endpoint, context=context_for(node, files))
    try:
        found = await client.predict(container, order)
        report = await client.container(container)
        if report is None:
            raise NotFound(f"container {container} is not on node {node} any more")
        return report, found
    finally:
        await client.close()


def _as_json(found: PredictionReply | None, obstacles: Sequence[Obstacle]) -> dict[str, Any]:
    measured = {} if found is None else found.model_dump(by_alias=True, exclude_none=True)
    for field in ("reason", "message", "hint"):
        measured.pop(field, None)
    return {
        **measured,
        "obstacles": [
            {"reason": each.reason, "message": each.message, "hint": each.hint}
            for each in obstacles
        ],
    }


def _print(found: PredictionReply | None, obstacles: Sequence[Obstacle]) -> None:
    if found is not None:
        print_table(("", ""), _rows(found))
    for each in obstacles:
        typer.echo(f"obstacle: {each.reason}: {each.text}")


def _rows(found: PredictionReply) -> list[tuple[str, str]]:
    rows = [("strategy", str(found.strategy))]
    expected = found.prediction
    if expected is not None:
        rows += [
            ("blackout", f"{expected.blackout_milliseconds} ms"),
            ("duration", f"{expected.total_milliseconds / 1e3:.1f} s"),
            ("bytes", _size(expected.bytes)),
            ("because", expected.explanation),
        ]
    if found.choice:
        rows.append(("choice", found.choice))
    return [
        *rows,
        ("memory", f"{_size(found.memory_bytes)}, of which {_size(found.zero_bytes)} zeros"),
        ("changes", f"{_size(found.dirty_rate)}/s, seen for {found.seconds:.1f} s"),
        ("link", f"{_size(found.link_rate)}/s"),
        ("compressible", f"to {found.compressed_percent} %"),
        ("files", _size(found.file_bytes)),
    ]


def _size(count: float) -> str:
    return f"{count / MEBI:.1f} MiB"
