"""The CRDs on a real API server: what it refuses with which message, and what it stores."""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest

from transship.common.errors import CommandFailed

pytestmark = pytest.mark.lab

NAMESPACE = "default"
Object = dict[str, Any]


class Kubectl(Protocol):
    def __call__(self, *args: str, stdin: str | None = None) -> str: ...


@pytest.fixture
def created(kubectl: Kubectl) -> Iterator[Callable[[Object], Object]]:
    """Create objects under unique names, and delete them at the end of the test."""
    made: list[Object] = []

    def create(document: Object) -> Object:
        named = as_named(document, f"test-api-{uuid.uuid4().hex[:8]}")
        stored: Object = json.loads(
            kubectl("create", "-f", "-", "-o", "json", stdin=json.dumps(named))
        )
        made.append(stored)
        return stored

    yield create
    for document in made:
        kubectl(
            "delete", "--wait=false", "--ignore-not-found", "-f", "-",
            stdin=json.dumps(document),
        )  # fmt: skip


def as_named(document: Object, name: str) -> Object:
    return {**document, "metadata": {**document["metadata"], "name": name}}


def name_of(document: Object) -> str:
    return str(document["metadata"]["name"])


def placement(**spec: Any) -> Object:
    """A placement for a node that does not exist, so that nothing runs."""
    container = {"image": "registry.example.org/app:1", **spec.pop("container", {})}
    return {
        "apiVersion": "transship.dev/v1alpha1",
        "kind": "ContainerPlacement",
        "metadata": {"name": "app", "namespace": NAMESPACE},
        "spec": {"targetNode": "no-such-node", "container": container, **spec},
    }


def migration(**spec: Any) -> Object:
    return {
        "apiVersion": "transship.dev/v1alpha1",
        "kind": "ContainerMigration",
        "metadata": {"name": "app-1", "namespace": NAMESPACE},
        "spec": {
            "placementName": "app",
            "placementUID": "0",
            "sourceNode": "node-x",
            "targetNode": "node-y",
            "epoch": 1,
            **spec,
        },
    }


def pool(**spec: Any) -> Object:
    return {
        "apiVersion": "transship.dev/v1alpha1",
        "kind": "AddressPool",
        "metadata": {"name": "test-api"},
        "spec": {
            name: value
            for name, value in {"cidr": "192.0.2.0/24", **spec}.items()
            if value is not None
        },
    }


def volume(source: Object) -> Object:
    return placement(volumes=[{"name": "data", **source}])


def mounting(mount: Object) -> Object:
    return placement(
        container={"volumeMounts": [{"name": "data", "mountPath": "/data", **mount}]},
        volumes=[{"name": "data", "emptyDir": {}}],
    )


def probing(probe: Object) -> Object:
    return placement(container={"livenessProbe": probe})


def variable(variable: Object) -> Object:
    return placement(container={"env": [{"name": "A", **variable}]})


def limited(limits: Object) -> Object:
    return placement(container={"resources": {"limits": limits}})


KEY = {"name": "x", "key": "k"}

REFUSED: dict[str, tuple[Object, str]] = {
    "both ways to choose a node": (
        placement(nodeSelector={"zone": "a"}),
        "must not have both targetNode and nodeSelector",
    ),
    "a node name with an underscore": (placement(targetNode="Node_A"), "spec.targetNode"),
    "no image": (placement(container={"image": ""}), "must be an image such as"),
    "an upper-case image": (
        placement(container={"image": "registry:5000/App:1"}),
        "must be an image such as",
    ),
    "a short digest": (placement(container={"image": "app@sha256:12"}), "must be an image"),
    "a mount of no volume": (mounting({"name": "other"}), "must be the name of one of volumes"),
    "a mount at the root": (mounting({"mountPath": "/"}), "must be an absolute path other than /"),
    "a mount that climbs": (mounting({"mountPath": "/a/../b"}), "must be an absolute path"),
    "a relative mount": (mounting({"mountPath": "data"}), "must be an absolute path"),
    "a sub path that climbs": (mounting({"subPath": "../x"}), "must be a relative path without .."),
    "an absolute sub path": (mounting({"subPath": "/x"}), "must be a relative path"),
    "two mounts at one path": (
        placement(
            container={"volumeMounts": [{"name": "data", "mountPath": "/data"}] * 2},
            volumes=[{"name": "data", "emptyDir": {}}],
        ),
        "Duplicate value",
    ),
    "two volumes of one name": (
        placement(volumes=[{"name": "data", "emptyDir": {}}, {"name": "data", "emptyDir": {}}]),
        "Duplicate value",
    ),
    "a volume without a source": (volume({}), "must have exactly one of emptyDir, hostPath"),
    "a volume with two sources": (
        volume({"emptyDir": {}, "hostPath": {"path": "/x"}}),
        "must have exactly one of emptyDir, hostPath",
    ),
    "a key's file outside its volume": (
        volume({"configMap": {"name": "c", "items": [{"key": "k", "path": "../k"}]}}),
        "must be a relative path",
    ),
    "a size that is no quantity": (
        volume({"emptyDir": {"sizeLimit": "big"}}),
        "must be a quantity that is not negative",
    ),
    "a probe of nothing": (probing({}), "must have exactly one of exec, tcpSocket and httpGet"),
    "a probe of two things": (
        probing({"tcpSocket": {"port": 1}, "httpGet": {"port": 1}}),
        "must have exactly one of exec, tcpSocket and httpGet",
    ),
    "a port that cannot be": (probing({"tcpSocket": {"port": 70000}}), "65535"),
    "a variable with two values": (
        variable({"value": "1", "valueFrom": {"secretKeyRef": KEY}}),
        "must have either value or valueFrom",
    ),
    "a variable from nowhere": (
        variable({"valueFrom": {}}),
        "must have exactly one of configMapKeyRef, secretKeyRef and fieldRef",
    ),
    "a variable from two places": (
        variable({"valueFrom": {"secretKeyRef": KEY, "configMapKeyRef": KEY}}),
        "must have exactly one of configMapKeyRef, secretKeyRef and fieldRef",
    ),
    "a field that is not offered": (
        variable({"valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}),
        "must be one of metadata.name",
    ),
    "a limit that is no quantity": (limited({"cpu": "fast"}), "must be a quantity"),
    "a negative limit": (limited({"cpu": "-1"}), "must be a quantity that is not negative"),
    "a negative number": (limited({"pids": -1}), "must be a quantity that is not negative"),
    "memory in thousandths": (limited({"memory": "512m"}), "write 512Mi, not 512m"),
    "memory without a unit": (limited({"memory": 512}), "write 512Mi, not 512m or 512"),
    "an address that is none": (
        placement(network={"address": "10.0.0.300"}),
        "must be an address of the pool",
    ),
    "two ways to ask for addresses": (
        placement(network={"address": "10.0.0.3", "addresses": ["fd00::3"]}),
        "must not have both address and addresses",
    ),
    "two addresses of one IP family": (
        placement(network={"addresses": ["10.0.0.3", "10.0.0.4"]}),
        "at most one of each IP family",
    ),
    "an IP family that is none": (placement(network={"ipFamilies": ["IPv5"]}), "ipFamilies"),
    "an IP family twice": (placement(network={"ipFamilies": ["IPv4", "IPv4"]}), "Duplicate"),
    "an address without a network": (
        placement(network={"mode": "None", "address": "10.0.0.3"}),
        "must not be set when mode is None",
    ),
    "post-copy asked for and forbidden": (
        placement(migration={"strategy": "PostCopy", "postCopy": "Forbidden"}),
        "strategy PostCopy needs postCopy: Allowed",
    ),
    "an unknown strategy": (placement(migration={"strategy": "Live"}), '"StopAndCopy"'),
    "an unknown field": (placement(hostPort=80), 'unknown field "spec.hostPort"'),
    "a move to where it is": (
        migration(targetNode="node-x"),
        "targetNode must be another node than sourceNode",
    ),
    "a migration of no owner": (migration(epoch=0), "spec.epoch"),
    "a cidr that is none": (pool(cidr="192.0.2.0"), "must be an IPv4 network between /8 and /30"),
    "a cidr with host bits": (pool(cidr="192.0.2.1/24"), "whose host bits are zero"),
    "a cidr of one address": (pool(cidr="192.0.2.1/32"), "between /8 and /30"),
    "an IPv6 cidr of one address": (pool(cidr="fd00::1/128"), "between /48 and /126"),
    "no network": (pool(cidr=None), "exactly one of cidr and cidrs"),
    "two ways to name networks": (pool(cidrs=["fd00::/64"]), "exactly one of cidr and cidrs"),
    "two networks of one IP family": (
        pool(cidr=None, cidrs=["192.0.2.0/24", "10.0.0.0/24"]),
        "at most one network of each IP family",
    ),
    "an exclusion outside the cidr": (
        pool(excluded=["198.51.100.1"]),
        "excluded must list addresses inside cidr",
    ),
    "an exclusion that is no address": (pool(excluded=["x"]), "excluded must list addresses"),
}

ACCEPTED: dict[str, Object] = {
    "labels instead of a node": placement(targetNode=None, nodeSelector={"zone": "a"}),
    "a node and no labels": placement(nodeSelector={}),
    "neither node nor labels": placement(targetNode=None),
    "an image with port, tag and digest": placement(
        container={"image": f"10.1.2.3:5000/a/b-c__d:V1.0@sha256:{'0' * 64}"}
    ),
    "an image's bare name": placement(container={"image": "nginx"}),
    "an image of a host without dots": placement(container={"image": "localhost/app"}),
    "numbers and words as quantities": limited({"cpu": 2, "memory": "1.5Gi", "pids": "100"}),
    "a dotted directory": mounting({"mountPath": "/data/..hidden", "subPath": "a/..b"}),
    "the largest environment value": variable({"value": "x" * 131072}),
    "every field of a variable": variable(
        {"valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    ),
    "no network": placement(network={"mode": "None"}),
    "a certain address": placement(network={"address": "192.0.2.7", "addressPool": "default"}),
    "the same port twice by protocol": placement(
        container={
            "ports": [{"containerPort": 53}, {"containerPort": 53, "protocol": "UDP"}],
        }
    ),
    "a migration": migration(),
    "a pool with a router": pool(excluded=["192.0.2.1"]),
    "an IPv6 pool": pool(cidr="fd00::/64", excluded=["fd00::1"]),
    "a pool of both IP families": pool(
        cidr=None, cidrs=["192.0.2.0/24", "fd00::/64"], excluded=["192.0.2.1", "fd00::1"]
    ),
    "an IPv6 address": placement(network={"address": "fd00::1"}),
    "an address of each IP family": placement(network={"addresses": ["fd00::1", "10.0.0.3"]}),
    "both IP families": placement(network={"ipFamilies": ["IPv6", "IPv4"]}),
}


def refusal(kubectl: Kubectl, verb: str, document: Object) -> str:
    with pytest.raises(CommandFailed) as failure:
        kubectl(verb, "--dry-run=server", "-f", "-", stdin=json.dumps(document))
    return failure.value.output


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_and_says_what_to_write(kubectl: Kubectl, case: str) -> None:
    document, message = REFUSED[case]
    assert message in refusal(kubectl, "create", document)


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepts(kubectl: Kubectl, case: str) -> None:
    kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(ACCEPTED[case]))


CHANGES: dict[str, tuple[Object, str]] = {
    "the image": (placement(container={"image": "other"}), "container must not change"),
    "a volume more": (
        placement(volumes=[{"name": "d", "emptyDir": {}}]),
        "volumes must not change",
    ),
    "a network": (placement(network={"addressPool": "other"}), "network must not change"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_placement_keeps(
    kubectl: Kubectl, created: Callable[[Object], Object], case: str
) -> None:
    stored = created(placement())
    document, message = CHANGES[case]
    told = refusal(kubectl, "replace", as_named(document, name_of(stored)))
    assert message in told
    assert "delete the placement and create it anew" in told


def test_a_placement_may_change_its_node_state_and_migration_settings(
    kubectl: Kubectl, created: Callable[[Object], Object]
) -> None:
    stored = created(placement(container={"ports": [{"containerPort": 80}]}))
    changed = as_named(placement(), name_of(stored))
    changed["spec"] = stored["spec"] | {
        "targetNode": "elsewhere",
        "state": "Stopped",
        "migration": {"strategy": "Cold"},
    }
    kubectl("replace", "--dry-run=server", "-f", "-", stdin=json.dumps(changed))


def test_a_manifest_without_defaults_can_be_applied_again(
    kubectl: Kubectl, created: Callable[[Object], Object]
) -> None:
    document = placement(container={"ports": [{"containerPort": 80}]})
    document = as_named(document, name_of(created(document)))
    for mode in ("--server-side=false", "--server-side=true"):
        force = ["--force-conflicts"] if mode.endswith("true") else []
        kubectl("apply", mode, *force, "-f", "-", stdin=json.dumps(document))


def test_only_the_key_of_a_list_gets_a_stored_default(
    created: Callable[[Object], Object],
) -> None:
    document = placement(container={"ports": [{"containerPort": 80}]})
    expected = copy.deepcopy(document["spec"])
    expected["container"]["ports"][0]["protocol"] = "TCP"
    assert created(document)["spec"] == expected


def test_a_migration_cannot_be_changed(
    kubectl: Kubectl, created: Callable[[Object], Object]
) -> None:
    stored = created(migration())
    changed = as_named(migration(targetNode="node-z"), name_of(stored))
    told = refusal(kubectl, "replace", changed)
    assert "delete the migration to cancel it" in told


def test_a_pool_in_use_keeps_its_network(
    kubectl: Kubectl, created: Callable[[Object], Object]
) -> None:
    name = name_of(created(pool()))
    changed = as_named(pool(cidr="10.0.0.0/8"), name)
    kubectl("replace", "--dry-run=server", "-f", "-", stdin=json.dumps(changed))
    kubectl(
        "patch", "addresspool", name, "--subresource=status", "--type=merge",
        "-p", '{"status": {"allocated": 1}}',
    )  # fmt: skip
    told = refusal(kubectl, "replace", changed)
    assert "spec.cidr must not change while addresses are allocated" in told


def test_a_pool_in_use_can_get_a_network_of_the_other_ip_family(
    kubectl: Kubectl, created: Callable[[Object], Object]
) -> None:
    name = name_of(created(pool()))
    kubectl(
        "patch", "addresspool", name, "--subresource=status", "--type=merge",
        "-p", '{"status": {"allocated": 1}}',
    )  # fmt: skip
    both = as_named(pool(cidr=None, cidrs=["192.0.2.0/24", "fd00::/64"]), name)
    kubectl("replace", "--dry-run=server", "-f", "-", stdin=json.dumps(both))
    other = as_named(pool(cidr=None, cidrs=["fd00::/64"]), name)
    assert "while addresses are allocated" in refusal(kubectl, "replace", other)


@pytest.mark.parametrize(
    ("words", "columns"),
    [
        (
            ("cpl", "placement", "placements", "containerplacement", "containerplacements"),
            "NAME NODE TARGET PHASE REASON ADDRESS BLACKOUT-MS AGE",
        ),
        (
            ("cmig", "migration", "migrations"),
            "NAME PLACEMENT FROM TO PHASE STRATEGY BLACKOUT-MS AGE",
        ),
    ],
)
def test_kubectl_knows_the_short_words_and_shows_the_columns(
    kubectl: Kubectl,
    created: Callable[[Object], Object],
    words: tuple[str, ...],
    columns: str,
) -> None:
    created(placement())
    created(migration())
    for word in words:
        header = kubectl("get", word, "-n", NAMESPACE).splitlines()[0]
        assert header.split() == columns.split()


def test_the_category_lists_every_kind(
    kubectl: Kubectl, created: Callable[[Object], Object]
) -> None:
    names = [name_of(created(placement())), name_of(created(pool()))]
    listed = kubectl("get", "transship", "-n", NAMESPACE, "-o", "name")
    assert f"containerplacement.transship.dev/{names[0]}" in listed
    assert f"addresspool.transship.dev/{names[1]}" in listed


def test_migrations_can_be_listed_by_placement(
    kubectl: Kubectl, created: Callable[[Object], Object]
) -> None:
    placements = (uuid.uuid4().hex, uuid.uuid4().hex)
    created(migration(placementName=placements[0]))
    for placement_name, expected in zip(placements, (1, 0), strict=True):
        selector = f"--field-selector=spec.placementName={placement_name}"
        listed = kubectl("get", "migrations", "-n", NAMESPACE, selector, "-o", "name")
        assert len(listed.split()) == expected
