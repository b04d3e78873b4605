"""The lab's Kubernetes alone, without nodes and without the lab's network."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from transship.common.errors import CommandFailed
from transship.common.processes import run_blocking
from transship.lab.control_plane.assets import Assets, ensure_assets
from transship.lab.control_plane.credentials import Kubeconfigs
from transship.lab.control_plane.kubernetes import (
    API_SERVER,
    CONTROLLER_MANAGER,
    ETCD,
    start_control_plane,
)
from transship.lab.daemons import stop_daemon

pytestmark = pytest.mark.lab

NODES = ["node-a", "node-b"]


@pytest.fixture(scope="module")
def assets() -> Assets:
    return ensure_assets(print)


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("control-plane")
    yield path
    stop(path)


@pytest.fixture
def control_plane(state_dir: Path, assets: Assets) -> Kubeconfigs:
    return start(state_dir, assets)


def start(state_dir: Path, assets: Assets) -> Kubeconfigs:
    return start_control_plane(state_dir, assets, address="127.0.0.1", nodes=NODES)


def stop(state_dir: Path) -> None:
    for name in (CONTROLLER_MANAGER, API_SERVER, ETCD):
        stop_daemon(state_dir, name)


def kubectl(assets: Assets, kubeconfig: Path, *words: str) -> str:
    return run_blocking([assets.kubectl, "--kubeconfig", kubeconfig, *words]).stdout


def test_each_user_is_who_its_kubeconfig_says(control_plane: Kubeconfigs, assets: Assets) -> None:
    def whoami(kubeconfig: Path) -> tuple[str, set[str]]:
        answer = json.loads(kubectl(assets, kubeconfig, "auth", "whoami", "--output=json"))
        user = answer["status"]["userInfo"]
        return user["username"], set(user["groups"]) - {"system:authenticated"}

    assert whoami(control_plane.admin) == ("admin", {"system:masters"})
    assert whoami(control_plane.operator) == ("transship:operator", set())
    assert whoami(control_plane.agents["node-b"]) == (
        "transship:agent:node-b",
        {"transship:agents"},
    )


def test_an_agent_may_nothing_that_was_not_granted(
    control_plane: Kubeconfigs, assets: Assets
) -> None:
    with pytest.raises(CommandFailed, match="Forbidden"):
        kubectl(assets, control_plane.agents["node-a"], "get", "namespaces")


def test_an_owned_object_goes_with_its_owner(control_plane: Kubeconfigs, assets: Assets) -> None:
    admin = control_plane.admin
    kubectl(assets, admin, "create", "configmap", "owner")
    uid = kubectl(assets, admin, "get", "configmap", "owner", "--output=jsonpath={.metadata.uid}")
    kubectl(assets, admin, "create", "configmap", "owned")
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
    patch = json.dumps({"metadata": {"ownerReferences": [owner]}})
    kubectl(assets, admin, "patch", "configmap", "owned", "--patch", patch)
    kubectl(assets, admin, "delete", "configmap", "owner")
    kubectl(assets, admin, "wait", "--for=delete", "configmap/owned", "--timeout=30s")


def test_a_deleted_namespace_goes_with_its_content(
    control_plane: Kubeconfigs, assets: Assets
) -> None:
    admin = control_plane.admin
    kubectl(assets, admin, "create", "namespace", "short-lived")
    kubectl(assets, admin, "create", "configmap", "content", "--namespace=short-lived")
    kubectl(assets, admin, "delete", "namespace", "short-lived", "--timeout=30s")


def test_it_can_be_stopped_and_started_with_its_data(
    control_plane: Kubeconfigs, state_dir: Path, assets: Assets
) -> None:
    kubectl(assets, control_plane.admin, "create", "configmap", "kept")
    stop(state_dir)
    again = start(state_dir, assets)
    assert again == control_plane
    kubectl(assets, again.admin, "get", "configmap", "kept")
