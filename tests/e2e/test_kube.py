"""What the fake API server of the unit tests cannot show: apply, versions, rights, events."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, TypeVar

import pytest

from transship.api.address_pool import AddressPool, AddressPoolSpec, AddressPoolStatus
from transship.api.base import ObjectMeta
from transship.api.conditions import condition
from transship.api.migration import ContainerMigration, MigrationSpec, MigrationStatus
from transship.common.errors import CommandFailed, Conflict, InvalidInput, NotFound
from transship.kube.client import KubeClient
from transship.kube.events import EventRecorder, EventType

pytestmark = pytest.mark.lab

T = TypeVar("T")
TRIES = 20
NOW = datetime(2026, 1, 1, tzinfo=UTC)
AGENT = ("--as=transship:agent:test-kube", "--as-group=transship:agents")
OPERATOR = ("--as=transship:operator",)
SYSTEM = ("-n", "transship-system")


class Kubectl(Protocol):
    def __call__(self, *args: str, stdin: str | None = None) -> str: ...


@pytest.fixture
async def client(kubectl: Kubectl, tmp_path: Path) -> AsyncIterator[KubeClient]:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(kubectl("config", "view", "--raw", "--flatten"))
    async with await KubeClient.connect(kubeconfig) as connected:
        yield connected


@pytest.fixture
async def migration(client: KubeClient) -> AsyncIterator[ContainerMigration]:
    """One that no operator acts upon: its placement does not exist."""
    name = f"test-kube-{uuid.uuid4().hex[:8]}"
    made = await client.create(
        ContainerMigration(
            metadata=ObjectMeta(name=name, namespace="default"),
            spec=MigrationSpec(
                placement_name=name, placement_uid="u", source_node="x", target_node="y", epoch=1
            ),
        )
    )
    yield made
    await client.delete(ContainerMigration, name=name, namespace="default")


@pytest.fixture
async def pool(client: KubeClient) -> AsyncIterator[AddressPool]:
    meta = ObjectMeta(name=f"test-kube-{uuid.uuid4().hex[:8]}")
    yield await client.create(AddressPool(metadata=meta, spec=AddressPoolSpec(cidr="192.0.2.0/24")))
    await client.delete(AddressPool, name=meta.name)


async def apply(
    client: KubeClient, migration: ContainerMigration, status: MigrationStatus, manager: str
) -> MigrationStatus:
    applied = await client.apply_status(
        ContainerMigration,
        name=migration.metadata.name,
        namespace="default",
        uid=migration.metadata.uid,
        status=status,
        field_manager=manager,
    )
    return applied.status


async def test_what_a_writer_leaves_out_is_removed(
    client: KubeClient, migration: ContainerMigration
) -> None:
    first = MigrationStatus(
        reason="DumpFailed",
        percent=50,
        conditions=(
            condition("TestA", True, reason="Held", now=NOW),
            condition("TestB", True, reason="Held", now=NOW),
        ),
    )
    then = MigrationStatus(percent=60, conditions=first.conditions[:1])
    await apply(client, migration, first, "test-writer")
    left = await apply(client, migration, then, "test-writer")
    assert left.reason is None
    assert left.percent == 60
    assert {c.type for c in left.conditions} & {"TestA", "TestB"} == {"TestA"}


async def test_a_condition_of_another_writer_stays(
    client: KubeClient, migration: ContainerMigration
) -> None:
    status = MigrationStatus()
    for kind in ("TestA", "TestB"):
        own = MigrationStatus(conditions=(condition(kind, True, reason="Held", now=NOW),))
        status = await apply(client, migration, own, f"test-{kind.lower()}")
    assert {c.type for c in status.conditions} >= {"TestA", "TestB"}


async def test_a_status_is_for_the_object_that_was_meant(
    client: KubeClient, migration: ContainerMigration
) -> None:
    name = migration.metadata.name
    with pytest.raises(Conflict) as conflict:
        await client.apply_status(
            ContainerMigration, name=name, namespace="default", uid="o", status=MigrationStatus()
        )
    assert conflict.value.reason == "Recreated"
    with pytest.raises(NotFound):
        await client.apply_status(
            ContainerMigration, name="none", namespace="default", status=MigrationStatus()
        )


async def without_the_operator_between(read_and_write: Callable[[], Awaitable[T]]) -> T:
    """The lab's operator writes the same statuses; again, then, with what it has written."""
    for _ in range(TRIES):
        with contextlib.suppress(Conflict):
            return await read_and_write()
    raise AssertionError(f"the status changed {TRIES} times between reading and writing")


async def test_a_status_is_not_written_over_a_change_that_was_not_seen(
    client: KubeClient, migration: ContainerMigration
) -> None:
    where = {"name": migration.metadata.name, "namespace": "default"}

    async def write(version: str) -> None:
        status = MigrationStatus(percent=1)
        await client.apply_status(
            ContainerMigration, **where, resource_version=version, status=status
        )

    async def read_and_write() -> str:
        version = (await client.get(ContainerMigration, **where)).metadata.resource_version
        await write(version)
        return version

    seen = await without_the_operator_between(read_and_write)
    with pytest.raises(Conflict):
        await write(seen)


async def test_a_json_patch_tests_before_it_changes(
    client: KubeClient, migration: ContainerMigration
) -> None:
    where = {"name": migration.metadata.name, "namespace": "default"}
    patch = [{"op": "add", "path": "/metadata/labels", "value": {"seen": "yes"}}]
    patched = await client.json_patch(ContainerMigration, **where, patch=patch)
    assert patched.metadata.labels == {"seen": "yes"}
    wrong = {"op": "test", "path": "/metadata/labels/seen", "value": "no"}
    with pytest.raises(InvalidInput):
        await client.json_patch(ContainerMigration, **where, patch=[wrong, *patch])


async def test_only_the_object_that_was_meant_is_deleted(
    client: KubeClient, migration: ContainerMigration
) -> None:
    name = migration.metadata.name
    with pytest.raises(Conflict):
        await client.delete(ContainerMigration, name=name, namespace="default", uid="other")
    still = await client.get(ContainerMigration, name=name, namespace="default")
    assert still.metadata.uid == migration.metadata.uid


async def test_a_pools_status_is_replaced_once_per_version(
    client: KubeClient, pool: AddressPool
) -> None:
    async def read_and_write() -> AddressPool:
        found = await client.get(AddressPool, name=pool.metadata.name)
        written = await client.replace_status_checked(found, status=AddressPoolStatus(size=9))
        assert written.status.size == 9
        return found

    read = await without_the_operator_between(read_and_write)
    with pytest.raises(Conflict):
        await client.replace_status_checked(read, status=AddressPoolStatus(size=8))


async def test_the_same_event_is_counted_where_kubectl_shows_it(
    client: KubeClient, kubectl: Kubectl, migration: ContainerMigration
) -> None:
    recorder = EventRecorder(client, component="test")
    for _ in range(3):
        await recorder.record(
            migration, type=EventType.WARNING, reason="DumpFailed", note="why", action="Dump"
        )
    selector = f"--field-selector=involvedObject.uid={migration.metadata.uid}"
    found = json.loads(kubectl("get", "events", "-n", "default", selector, "-o", "json"))["items"]
    (event,) = [e for e in found if e["reportingComponent"] == "transship.dev/test"]
    assert (event["series"]["count"], event["reason"], event["message"]) == (3, "DumpFailed", "why")


RIGHTS = [
    (OPERATOR, "patch", "containerplacements.transship.dev/status", True),
    (OPERATOR, "create", "containermigrations.transship.dev", True),
    (OPERATOR, "update", "addresspools.transship.dev/status", True),
    (OPERATOR, "get", "secrets", True),
    (OPERATOR, "create", "events.events.k8s.io", True),
    (OPERATOR, "list", "secrets", False),
    (OPERATOR, "delete", "containerplacements.transship.dev", False),
    (OPERATOR, "patch", "nodeagents.transship.dev/status", True),
    (OPERATOR, "patch", "nodeagents.transship.dev", False),
    (OPERATOR, "create", "pods", False),
    (AGENT, "patch", "nodeagents.transship.dev/status", True),
    (AGENT, "create", "nodeagents.transship.dev", True),
    (AGENT, "create", "events.events.k8s.io", True),
    (AGENT, "get", "secrets", False),
    (AGENT, "list", "containerplacements.transship.dev", False),
    (AGENT, "patch", "containermigrations.transship.dev/status", False),
    (AGENT, "delete", "nodeagents.transship.dev", False),
]


@pytest.mark.parametrize(("user", "verb", "resource", "allowed"), RIGHTS)
def test_operator_and_agents_may_do_their_work_and_no_more(
    kubectl: Kubectl, user: tuple[str, ...], verb: str, resource: str, allowed: bool
) -> None:
    resource, _, subresource = resource.partition("/")
    words = [verb, resource, *([f"--subresource={subresource}"] if subresource else [])]
    assert may(kubectl, *words, *user) is allowed


def test_leases_are_of_the_system_namespace_only(kubectl: Kubectl) -> None:
    for user in (OPERATOR, AGENT):
        assert may(kubectl, "create", "leases.coordination.k8s.io", *SYSTEM, *user)
        assert not may(kubectl, "create", "leases.coordination.k8s.io", "-n", "default", *user)


def may(kubectl: Kubectl, *words: str) -> bool:
    try:
        return kubectl("auth", "can-i", *words).strip().endswith("yes")
    except CommandFailed:  # it says no by its status, too
        return False


def node_agent(name: str) -> str:
    kind = {"apiVersion": "transship.dev/v1alpha1", "kind": "NodeAgent"}
    return json.dumps({**kind, "metadata": {"name": name}})


def lease(name: str) -> str:
    kind = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    return json.dumps({**kind, "metadata": {"name": name, "namespace": SYSTEM[1]}})


DRY = ("create", "--dry-run=server", "-f", "-")


def test_an_agent_writes_its_own_objects(kubectl: Kubectl) -> None:
    kubectl(*DRY, *AGENT, stdin=node_agent("test-kube"))
    kubectl(*DRY, *AGENT, stdin=lease("agent-test-kube"))


@pytest.mark.parametrize(
    "document", [node_agent("other"), lease("agent-other"), lease("test-kube")]
)
def test_an_agent_does_not_speak_for_another(kubectl: Kubectl, document: str) -> None:
    with pytest.raises(CommandFailed) as refusal:
        kubectl(*DRY, *AGENT, stdin=document)
    assert "may write only the NodeAgent of that name" in refusal.value.output


def test_a_member_of_the_group_without_a_node_writes_nothing(kubectl: Kubectl) -> None:
    stranger = ("--as=stranger", "--as-group=transship:agents")
    with pytest.raises(CommandFailed):
        kubectl(*DRY, *stranger, stdin=node_agent("test-kube"))


def test_an_agent_does_not_make_itself_schedulable(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=node_agent("test-kube"))
    patch = '{"spec": {"unschedulable": true}}'
    words = ("patch", "nodeagent", "test-kube", "--type=merge", "-p", patch)
    try:
        with pytest.raises(CommandFailed) as refusal:
            kubectl(*words, *AGENT)
        assert "that is the administrator's" in refusal.value.output
        kubectl(*words)
    finally:
        kubectl("delete", "nodeagent", "test-kube")
