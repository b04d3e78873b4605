"""The manifests' names are those that the programs use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from transship.api.kinds import KINDS
from transship.common.certificates import AGENT_NAME_PREFIX, AGENTS_GROUP, OPERATOR_NAME
from transship.kube.leases import AGENT_PREFIX, SYSTEM_NAMESPACE

ROOT = Path(__file__).parents[3]
MANIFESTS = ROOT / "manifests"


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def rules(name: str) -> Iterator[dict[str, Any]]:
    for document in documents(MANIFESTS / "access" / name):
        yield from document["rules"]


FILES = sorted(MANIFESTS.rglob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(MANIFESTS)))
def test_every_file_is_a_list_of_objects(path: Path) -> None:
    assert all({"apiVersion", "kind"} <= set(document) for document in documents(path))


@pytest.mark.parametrize("path", sorted(MANIFESTS.rglob("kustomization.yaml")), ids=str)
def test_what_a_kustomization_names_exists(path: Path) -> None:
    (kustomization,) = documents(path)
    for resource in kustomization["resources"]:
        target = path.parent / resource
        assert target.is_file() or list(target.glob("[kK]ustomization*")), resource


def test_the_namespace_is_the_one_of_the_leases() -> None:
    (namespace,) = documents(MANIFESTS / "access" / "namespace.yaml")
    assert namespace["metadata"]["name"] == SYSTEM_NAMESPACE


def test_certificate_users_have_their_names() -> None:
    bindings = documents(MANIFESTS / "overlays" / "lab" / "bindings.yaml")
    subjects = {(s["kind"], s["name"]) for binding in bindings for s in binding["subjects"]}
    assert subjects == {("User", OPERATOR_NAME), ("Group", AGENTS_GROUP)}


def test_the_policy_reads_the_node_out_of_the_agents_name() -> None:
    policy = (MANIFESTS / "access" / "agent-policy.yaml").read_text()
    assert f"startsWith('{AGENT_NAME_PREFIX}')" in policy
    assert f"substring({len(AGENT_NAME_PREFIX)})" in policy
    assert f"'{AGENT_PREFIX}' + variables.node" in policy
    assert f"'{AGENTS_GROUP}' in request.userInfo.groups" in policy


@pytest.mark.parametrize("name", ["operator-role.yaml", "agent-role.yaml", "user-roles.yaml"])
def test_roles_allow_no_more_than_named_kinds_and_verbs(name: str) -> None:
    plurals = {kind.plural for kind in KINDS}
    for rule in rules(name):
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        if rule["apiGroups"] == ["transship.dev"]:
            assert {resource.split("/")[0] for resource in rule["resources"]} <= plurals


def test_no_role_of_kubernetes_gets_to_write_placements() -> None:
    """Aggregation to view carries on to edit and admin, so it is for reading alone."""
    for role in documents(MANIFESTS / "access" / "user-roles.yaml"):
        labels = role["metadata"].get("labels", {})
        aggregated = {key for key in labels if "aggregate-to-" in key}
        assert aggregated <= {"rbac.authorization.k8s.io/aggregate-to-view"}
        for rule in role["rules"] if aggregated else ():
            assert set(rule["verbs"]) <= {"get", "list", "watch"}
            assert "secrets" not in rule["resources"]


def test_nobody_may_list_secrets() -> None:
    for name in ("operator-role.yaml", "agent-role.yaml", "user-roles.yaml"):
        for rule in rules(name):
            if "secrets" in rule["resources"]:
                assert rule["verbs"] == ["get"]


@pytest.mark.parametrize("name", ["base/agent.yaml", "overlays/cert-manager/agent-tls.yaml"])
def test_the_agent_finds_the_nodes_files_where_they_are_mounted(name: str) -> None:
    """An overlay's list of arguments takes the place of the whole list."""
    (base,) = documents(MANIFESTS / "base/agent.yaml")
    pod = base["spec"]["template"]["spec"]
    [volume] = [v["name"] for v in pod["volumes"] if v.get("hostPath", {}).get("path") == "/"]
    [mount] = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == volume]
    assert mount["mountPropagation"] == "HostToContainer"
    assert not mount.get("readOnly")
    (document,) = documents(MANIFESTS / name)
    arguments = document["spec"]["template"]["spec"]["containers"][0]["args"]
    assert f"--host-root={mount['mountPath']}" in arguments
