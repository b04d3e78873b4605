"""`transship plan`: predicts a move and lists what would make it fail. It moves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
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
    reply, obstacles = asyncio.run(
        _plan(name, namespace, to=to, strategy=strategy, access=(kubeconfig, certificates))
    )
    if as_json:
        print_json(_as_json(reply, obstacles))
    else:
        _print(reply, obstacles)
    raise typer.Exit(1 if obstacles else 0)


async def _plan(
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
        source, target = [await client.get(NodeAgent, name=agent) for agent in (node, to)]
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
    request = PredictionRequest(target=_peer(target), settings=settings)
    with tls_files(secret) as files:
        try:
            report, reply = await _predict(source, placement.metadata.uid, request, files=files)
        except TransshipError as e:
            return None, [*obstacles, from_error(e)]
    return reply, [*obstacles, *_agent_obstacles(report, reply, strategy=settings.strategy)]


def _agent_obstacles(
    report: ContainerReport, reply: PredictionReply, *, strategy: Strategy
) -> Iterator[Obstacle]:
    """What the source's agent found: in the container's processes, and while predicting."""
    for obstacle in report.obstacles:
        if obstacle.concerns(strategy):
            yield Obstacle(obstacle.reason, obstacle.message, obstacle.hint)
    if reply.reason:
        yield Obstacle(reply.reason, reply.message, reply.hint)


def _settings(placement: ContainerPlacement, strategy: Strategy | None) -> MigrationSettings:
    settings = placement.spec.migration
    if strategy is None:
        return settings
    return settings.model_copy(update={"strategy": strategy})


def _peer(agent: NodeAgent) -> Peer:
    status = agent.status
    return Peer(node=agent.metadata.name, address=status.address, endpoint=status.endpoint)


async def _predict(
    agent: NodeAgent, container: str, request: PredictionRequest, *, files: TlsFiles
) -> tuple[ContainerReport, PredictionReply]:
    """Query the report after the prediction, for which the agent examines the processes."""
    node = agent.metadata.name
    client = AgentClient(node, agent.status.endpoint, context=context_for(node, files))
    try:
        reply = await client.predict(container, request)
        report = await client.container(container)
        if report is None:
            raise NotFound(f"container {container} is not on node {node} any more")
        return report, reply
    finally:
        await client.close()


def _as_json(reply: PredictionReply | None, obstacles: Sequence[Obstacle]) -> dict[str, Any]:
    measured = {} if reply is None else reply.model_dump(by_alias=True, exclude_none=True)
    for field in ("reason", "message", "hint"):
        measured.pop(field, None)
    return {
        **measured,
        "obstacles": [
            {"reason": obstacle.reason, "message": obstacle.message, "hint": obstacle.hint}
            for obstacle in obstacles
        ],
    }


def _print(reply: PredictionReply | None, obstacles: Sequence[Obstacle]) -> None:
    if reply is not None:
        print_table(("", ""), _rows(reply))
    for obstacle in obstacles:
        typer.echo(f"obstacle: {obstacle.reason}: {obstacle.text}")


def _rows(reply: PredictionReply) -> list[tuple[str, str]]:
    rows = [("strategy", str(reply.strategy))]
    prediction = reply.prediction
    if prediction is not None:
        rows += [
            ("blackout", f"{prediction.blackout_milliseconds} ms"),
            ("duration", f"{prediction.total_milliseconds / 1e3:.1f} s"),
            ("bytes", _size(prediction.bytes)),
            ("because", prediction.explanation),
        ]
    if reply.choice:
        rows.append(("choice", reply.choice))
    return [
        *rows,
        ("memory", f"{_size(reply.memory_bytes)}, of which {_size(reply.zero_bytes)} zeros"),
        ("changes", f"{_size(reply.dirty_rate)}/s, measured for {reply.seconds:.1f} s"),
        ("link", f"{_size(reply.link_rate)}/s"),
        ("compressible", f"to {reply.compressed_percent} %"),
        ("files", _size(reply.file_bytes)),
    ]


def _size(count: float) -> str:
    return f"{count / MEBI:.1f} MiB"
