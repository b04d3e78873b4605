"""Orders and records with defaults for tests."""

from __future__ import annotations

from transship.agent.journal import transitions
from transship.agent.journal.record import Record
from transship.agentapi.containers import ContainerOrder
from transship.agentapi.migrations import IncomingOrder, Peer
from transship.api.container import Container, RestartPolicy
from transship.api.placement import DesiredState, Strategy

ID = "0b5e2c1a-0000-4000-8000-000000000001"
MIGRATION = "3f1d9a7c-0000-4000-8000-000000000002"
BOOT = "this-boot"


def peer(node: str = "node-b") -> Peer:
    return Peer(node=node, address="10.200.0.12", endpoint="https://10.200.0.12:7443")


def container(**changes: object) -> Container:
    return Container.model_validate({"image": "registry:5000/counter:1", **changes})


def order(
    *,
    epoch: int = 1,
    state: DesiredState = DesiredState.RUNNING,
    policy: RestartPolicy = RestartPolicy.ALWAYS,
    container_id: str = ID,
    **changes: object,
) -> ContainerOrder:
    return ContainerOrder(
        id=container_id,
        namespace="default",
        name="counter",
        epoch=epoch,
        addresses=("10.200.128.1",),
        container=container(restart_policy=policy, **changes),
        state=state,
    )


def running_record(*, epoch: int = 1, **changes: object) -> Record:
    """A record of a container that was started in this boot."""
    made = transitions.ordered(None, order(epoch=epoch), boot=BOOT)
    return made.but(started_boot=BOOT, **changes)


def incoming_order(*, epoch: int = 2, migration: str = MIGRATION) -> IncomingOrder:
    return IncomingOrder(
        migration=migration,
        order=order(epoch=epoch),
        source=peer("node-a"),
        strategy=Strategy.STOP_AND_COPY,
        restarts=3,
    )
