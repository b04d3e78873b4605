"""`transship plan`: predicts a move and lists what would make it fail. It moves nothing."""

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
    to: Annotated[str, typer.Option(help="Target node.")],
    namespace: Namespace = "default",
    strategy: Annotated[
        Strategy | None, typer.Option(help="Strategy, instead of the placement's.")
    ] = None,
    kubeconfig: Kubeconfig = None,
    certificates: Certificates = None,
    as_json: AsJson = False,
) -> None:
    """Measure a running container and the network, and predict its move.

    Exit code 1 if something would make the move fail.
    """
    forecast, obstacles = asyncio.run(
        _ask(name, namespace, to=to, strategy=strategy, access=(kubeconfig, certificates))
    )
    if as_json:
        print_json(_as_json(forecast, obstacles))
    else:
        _print(forecast, obstacles)
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
            report, forecast = await _measure(source, placement.metadata.uid, order, files=files)
        except TransshipError as e:
            return None, [*obstacles, from_error(e)]
    obstacles += [
        Obstacle(obstacle.reason, obstacle.message, obstacle.hint)
        for obstacle in report.obstacles
        if obstacle.concerns(settings.strategy)
    ]
    if forecast.reason:
        obstacles.append(Obstacle(forecast.reason, forecast.message, forecast.hint))
    return forecast, obstacles


def _settings(placement: ContainerPlacement, strategy: Strategy | None) -> MigrationSettings:
    settings = placement.spec.migration
    if strategy is None:
        return settings
    return settings.model_copy(update={"strategy": strategy})


def _peer(agent: NodeAgent) -> Peer:
    status = agent.status
    return Peer(node=agent.metadata.name, address=status.address, endpoint=status.endpoint)


async def _measure(
    agent: NodeAgent, container: str, order: PredictionRequest, *, files: TlsFiles
) -> tuple[ContainerReport, PredictionReply]:
    """The report comes last: the agent looks at the processes for the prediction."""
    node = agent.metadata.name
    client = AgentClient(node, agent.status.endpoint, context=context_for(node, files))
    try:
        forecast = await client.predict(container, order)
        report = await client.container(container)
        if report is None:
            raise NotFound(f"container {container} is not on node {node} any more")
        return report, forecast
    finally:
        await client.close()


def _as_json(forecast: PredictionReply | None, obstacles: Sequence[Obstacle]) -> dict[str, Any]:
    measured = {} if forecast is None else forecast.model_dump(by_alias=True, exclude_none=True)
    for field in ("reason", "message", "hint"):
        measured.pop(field, None)
    return {
        **measured,
        "obstacles": [
            {"reason": obstacle.reason, "message": obstacle.message, "hint": obstacle.hint}
            for obstacle in obstacles
        ],
    }


def _print(forecast: PredictionReply | None, obstacles: Sequence[Obstacle]) -> None:
    if forecast is not None:
        print_table(("", ""), _rows(forecast))
    for obstacle in obstacles:
        typer.echo(f"obstacle: {obstacle.reason}: {obstacle.text}")


def _rows(forecast: PredictionReply) -> list[tuple[str, str]]:
    rows = [("strategy", str(forecast.strategy))]
    expected = forecast.prediction
    if expected is not None:
        rows += [
            ("blackout", f"{expected.blackout_milliseconds} ms"),
            ("duration", f"{expected.total_milliseconds / 1e3:.1f} s"),
            ("bytes", _size(expected.bytes)),
            ("because", expected.explanation),
        ]
    if forecast.choice:
        rows.append(("choice", forecast.choice))
    return [
        *rows,
        ("memory", f"{_size(forecast.memory_bytes)}, of which {_size(forecast.zero_bytes)} zeros"),
        ("changes", f"{_size(forecast.dirty_rate)}/s, measured for {forecast.seconds:.1f} s"),
        ("link", f"{_size(forecast.link_rate)}/s"),
        ("compressible", f"to {forecast.compressed_percent} %"),
        ("files", _size(forecast.file_bytes)),
    ]


def _size(count: float) -> str:
    return f"{count / MEBI:.1f} MiB"
