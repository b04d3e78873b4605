"""The client of our kinds, against a small API server."""

from __future__ import annotations

import pytest
from loguru import logger

from fakes.api_server import FakeApiServer
from transship.api.address_pool import AddressPool, AddressPoolSpec, AddressPoolStatus
from transship.api.base import ObjectMeta, OwnerReference
from transship.api.container import Container
from transship.api.node_agent import NodeAgent, NodeAgentStatus
from transship.api.placement import ContainerPlacement, PlacementSpec, PlacementStatus
from transship.common.errors import Conflict, InvalidInput, NotFound
from transship.kube.client import KubeClient, manifest_of
from transship.kube.paths import path_of

WEB = ContainerPlacement(
    metadata=ObjectMeta(name="web", namespace="shop"),
    spec=PlacementSpec(target_node="node-a", container=Container(image="web:1")),
)
POOL = AddressPool(metadata=ObjectMeta(name="default"), spec=AddressPoolSpec(cidr="192.0.2.0/24"))


@pytest.fixture
def server() -> FakeApiServer:
    return FakeApiServer()


@pytest.fixture
def client(server: FakeApiServer) -> KubeClient:
    return KubeClient(server)


async def test_what_was_created_can_be_read(client: KubeClient) -> None:
    created = await client.create(WEB)
    read = await client.get(ContainerPlacement, name="web", namespace="shop")
    assert read == created
    assert read.spec == WEB.spec


async def test_creating_it_twice_is_a_conflict(client: KubeClient) -> None:
    await client.create(WEB)
    with pytest.raises(Conflict) as conflict:
        await client.create(WEB)
    assert conflict.value.reason == "AlreadyExists"


async def test_what_is_not_there_is_not_found(client: KubeClient) -> None:
    with pytest.raises(NotFound):
        await client.get(ContainerPlacement, name="web", namespace="shop")


async def test_a_namespaced_object_needs_its_namespace(client: KubeClient) -> None:
    with pytest.raises(InvalidInput, match="a namespace is needed"):
        await client.get(ContainerPlacement, name="web")


async def test_one_object_that_cannot_be_read_does_not_hide_the_others(
    server: FakeApiServer, client: KubeClient
) -> None:
    await client.create(WEB)
    hide(server, "odd", version="7")
    assert [p.metadata.name for p in await client.list(ContainerPlacement)] == ["web"]
    found = await client.listing(ContainerPlacement)
    [odd] = found.unreadable
    assert (odd.path, odd.uid, odd.version) == ("shop/odd", "uid-odd", "7")
    assert "spec" in odd.error
    assert found.uids == {found.resources[0].metadata.uid, "uid-odd"}


async def test_an_object_that_cannot_be_read_is_told_of_once_per_version(
    server: FakeApiServer, client: KubeClient
) -> None:
    log_lines: list[str] = []
    sink = logger.add(log_lines.append, format="{message}", level="WARNING")
    try:
        for version in ("7", "7", "8", "8"):
            hide(server, "odd", version=version)
            await client.list(ContainerPlacement)
    finally:
        logger.remove(sink)
    assert len(log_lines) == 2
    assert all("ContainerPlacement shop/odd cannot be read" in line for line in log_lines)


def hide(server: FakeApiServer, name: str, *, version: str) -> None:
    """An object of another version of ours, in the list of all namespaces."""
    path = path_of(ContainerPlacement)
    for at, stored in list(server.objects.items()):
        server.objects[f"{path}/{at.rsplit('/', 1)[-1]}"] = stored
    metadata = {"name": name, "namespace": "shop", "uid": f"uid-{name}"}
    server.objects[f"{path}/{name}"] = {
        "metadata": {**metadata, "resourceVersion": version},
        "spec": {"container": 5},
    }


async def test_listing_returns_the_objects_of_the_namespace(client: KubeClient) -> None:
    await client.create(WEB)
    listed = await client.list(ContainerPlacement, namespace="shop")
    assert [placement.metadata.name for placement in listed] == ["web"]
    assert await client.list(ContainerPlacement, namespace="other") == ()


async def test_a_deleted_object_is_gone(client: KubeClient) -> None:
    await client.create(WEB)
    await client.delete(ContainerPlacement, name="web", namespace="shop")
    assert await client.list(ContainerPlacement, namespace="shop") == ()


async def test_an_applied_status_is_what_is_read_afterwards(client: KubeClient) -> None:
    created = await client.create(WEB)
    status = PlacementStatus(observed_generation=1, node="node-a", epoch=1)
    applied = await client.apply_status(
        ContainerPlacement, name="web", namespace="shop", uid=created.metadata.uid, status=status
    )
    assert applied.status == status
    assert applied.spec == WEB.spec


async def test_a_status_is_not_written_to_a_later_object_of_the_same_name(
    client: KubeClient,
) -> None:
    created = await client.create(WEB)
    await client.delete(ContainerPlacement, name="web", namespace="shop")
    later = await client.create(WEB)
    with pytest.raises(Conflict) as conflict:
        await client.apply_status(
            ContainerPlacement,
            name="web",
            namespace="shop",
            uid=created.metadata.uid,
            status=PlacementStatus(node="node-a"),
        )
    assert conflict.value.reason == "Recreated"
    assert later == await client.get(ContainerPlacement, name="web", namespace="shop")


async def test_two_writers_cannot_both_replace_a_pools_status(client: KubeClient) -> None:
    read = await client.create(POOL)
    await client.replace_status_checked(read, status=AddressPoolStatus(allocated=1))
    with pytest.raises(Conflict):
        await client.replace_status_checked(read, status=AddressPoolStatus(allocated=2))
    assert (await client.get(AddressPool, name="default")).status.allocated == 1


async def test_an_agent_registers_itself_with_labels_and_status(client: KubeClient) -> None:
    for endpoint in ("https://192.0.2.1:1", "https://192.0.2.1:2"):
        agent = await client.apply_node_agent(
            name="node-a", labels={"zone": "x"}, status=NodeAgentStatus(endpoint=endpoint)
        )
        assert agent == await client.get(NodeAgent, name="node-a")
        assert agent.status.endpoint == endpoint
        assert agent.metadata.labels == {"zone": "x"}


async def test_an_object_that_cannot_be_read_is_named(
    client: KubeClient, server: FakeApiServer
) -> None:
    await client.create(POOL)
    server.objects["/apis/transship.dev/v1alpha1/addresspools/default"]["spec"] = {"cidr": 5}
    with pytest.raises(InvalidInput, match="reading AddressPool default"):
        await client.get(AddressPool, name="default")


def test_a_manifest_has_nothing_that_the_api_server_fills_in() -> None:
    owner = OwnerReference(api_version="v1", kind="Node", name="n", uid="u", controller=True)
    meta = ObjectMeta(
        name="web", namespace="shop", uid="u", resource_version="7", owner_references=(owner,)
    )
    manifest = manifest_of(WEB.model_copy(update={"metadata": meta}))
    assert manifest["metadata"] == {
        "name": "web",
        "namespace": "shop",
        "ownerReferences": [owner.dump()],
    }
    assert "status" not in manifest
    assert manifest["apiVersion"] == "transship.dev/v1alpha1"
    assert manifest["kind"] == "ContainerPlacement"
