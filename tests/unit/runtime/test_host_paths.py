from __future__ import annotations

from pathlib import Path

import pytest

from transship.common.errors import InvalidInput
from transship.runtime import host, host_paths
from transship.runtime.layout import Layout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The node's file system, as an agent in a Pod has it mounted."""
    root = tmp_path / "host"
    for name in ("etc", "srv/data", "var/lib/transship/journal", "var/lib/kubelet/pods/x"):
        (root / name).mkdir(parents=True)
    return root


@pytest.fixture
def layout(root: Path) -> Layout:
    return Layout(host_root=root)


def refusal(path: str, layout: Layout) -> str:
    with pytest.raises(InvalidInput) as caught:
        host_paths.find(path, layout=layout)
    return caught.value.reason


def test_a_path_is_the_nodes(root: Path, layout: Layout) -> None:
    assert host_paths.find("/srv/data", layout=layout) == root / "srv/data"


@pytest.mark.parametrize("target", ["/srv/data", "../../../../srv/data", "data", "/../srv/./data"])
def test_links_and_dots_end_at_the_nodes_root(root: Path, layout: Layout, target: str) -> None:
    (root / "srv/link").symlink_to(target)
    assert host_paths.find("/srv/link", layout=layout) == root / "srv/data"


def test_what_only_the_agents_pod_has_does_not_exist(layout: Layout) -> None:
    assert refusal("/proc/self/status", layout) == "HostPathNotFound"


@pytest.mark.parametrize(
    "path",
    [
        "/", "/var", "/var/lib/transship", "/var/lib/transship/journal", "/run/transship/x", "/run",
        "/srv/../var/lib", "/var/lib/kubelet/pods/x", "/srv/alias", "/srv/alias/journal",
    ],
)  # fmt: skip
def test_what_is_the_agents_is_refused(root: Path, layout: Layout, path: str) -> None:
    (root / "srv/alias").symlink_to("/var/lib/transship")
    assert refusal(path, layout) == "HostPathRefused"


def test_a_secret_of_the_agent_is_known_under_another_name(root: Path, tmp_path: Path) -> None:
    """What is mounted into its Pod lies on the node under a name that the Pod does not know."""
    secret = tmp_path / "kubeconfig"
    secret.touch()
    (root / "srv/kubelet-has-it-here").hardlink_to(secret)
    layout = Layout(host_root=root, secrets=(secret,))
    assert refusal("/srv/kubelet-has-it-here", layout) == "HostPathRefused"
    assert host_paths.find("/srv/data", layout=layout) == root / "srv/data"


def test_name_servers_are_the_nodes(root: Path) -> None:
    assert host.name_servers(root) == b""
    (root / "etc/resolv.conf").write_text("nameserver 192.0.2.1\n")
    assert host.name_servers(root) == b"nameserver 192.0.2.1\n"


def test_a_resolver_on_the_nodes_loopback_is_not_handed_on(root: Path) -> None:
    real = root / "run/systemd/resolve"
    real.mkdir(parents=True)
    (real / "stub-resolv.conf").write_text("nameserver 127.0.0.53\n")
    (real / "resolv.conf").write_text("nameserver 192.0.2.2\n")
    (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    assert host.name_servers(root) == b"nameserver 192.0.2.2\n"
