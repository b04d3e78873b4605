"""The lab as the tests use it: kubectl, clients, faults. It waits for conditions only."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from transship.api.crd.admission import LABEL, PRIVILEGED
from transship.api.crd.admission import NAME as POLICY
from transship.cli.app import app
from transship.common.errors import CommandFailed
from transship.common.processes import run_blocking
from transship.lab.nodes.namespace_nodes import enter_words
from transship.lab.nodes.network import parse_rate
from transship.lab.proof import fault_injection
from transship.lab.proof.counter_client import CounterClient
from transship.lab.state import LabState, lab_dir, load_state

TIMEOUT_SECONDS = 90.0
POLL_SECONDS = 0.05
COUNTER_READY = {"tcpSocket": {"port": 7000}, "periodSeconds": 1}


class World:
    """One lab, used from outside like a cluster."""

    def __init__(
        self, lab: LabState, *, kubectl: Path, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        self.lab = lab
        self._timeout = timeout_seconds
        self._kubectl = kubectl
        self._directory = lab_dir(lab.name)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        argv: list[str | Path] = [self._kubectl, *self._kubeconfig(), *arguments]
        return run_blocking(argv, stdin=None if stdin is None else stdin.encode()).stdout

    @contextmanager
    def watching(self, kind: str, jsonpath: str) -> Iterator[list[str]]:
        """Collect the output of the jsonpath for every version of every object of a kind."""
        lines: list[str] = []
        output = f'-o=jsonpath={jsonpath}{{"\\n"}}'
        argv: list[str | Path] = [
            self._kubectl,
            *self._kubeconfig(),
            "get",
            kind,
            "--watch",
            output,
        ]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            reader = threading.Thread(target=lines.extend, args=(process.stdout,))
            reader.start()
            try:
                yield lines
            finally:
                process.terminate()
                reader.join()

    def apply(self, name: str, *, node: str | None = "node-a", **spec: Any) -> None:
        """Apply a placement; its container is the counter unless spec says otherwise."""
        container = spec.pop("container", {})
        if "image" not in container:
            container = {"readinessProbe": COUNTER_READY, **container}
        body: dict[str, Any] = {
            "apiVersion": "transship.dev/v1alpha1",
            "kind": "ContainerPlacement",
            "metadata": {"name": name},
            "spec": {"container": {"image": self.image("counter"), **container}, **spec},
        }
        if node is not None:
            body["spec"]["targetNode"] = node
        self.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    @property
    def registry(self) -> str:
        assert self.lab.registry is not None
        return self.lab.registry

    def image(self, name: str) -> str:
        return f"{self.registry}/{name}:1"

    def move(self, name: str, node: str) -> None:
        """Edit the target node. Does not wait."""
        self.patch(name, {"targetNode": node})

    def patch(self, name: str, spec: dict[str, Any]) -> None:
        self.kubectl("patch", "placement", name, "--type=merge", "-p", json.dumps({"spec": spec}))

    @contextmanager
    def privileged(self, namespace: str = "default") -> Iterator[None]:
        """Allow hostPath volumes, nfs and capabilities in a namespace, inside the `with`."""
        self.label(namespace, f"{LABEL}={PRIVILEGED}")
        self.until(
            lambda: self.allows_host_paths(namespace), f"{namespace} allows hostPath volumes"
        )
        try:
            yield
        finally:
            self.label(namespace, f"{LABEL}-")
            self.until(lambda: not self.allows_host_paths(namespace), f"{namespace} allows none")

    def label(self, namespace: str, label: str) -> None:
        self.kubectl("label", "namespace", namespace, label, "--overwrite")

    def allows_host_paths(self, namespace: str) -> bool:
        """Whether admission accepts hostPath; the API server sees a new label after a moment."""
        body = {
            "apiVersion": "transship.dev/v1alpha1",
            "kind": "ContainerPlacement",
            "metadata": {"name": "dry-run", "namespace": namespace},
            "spec": {
                "container": {"image": "any"},
                "volumes": [{"name": "node", "hostPath": {"path": "/srv"}}],
            },
        }
        try:
            self.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(body))
        except CommandFailed as e:
            if POLICY not in e.output:
                raise
            return False
        return True

    def get(self, kind: str, name: str) -> dict[str, Any]:
        resource: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        return resource

    def resources(self, kind: str) -> list[dict[str, Any]]:
        resources: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, "-o", "json"))[
            "items"
        ]
        return resources

    def status(self, name: str) -> dict[str, Any]:
        status: dict[str, Any] = self.get("placement", name).get("status", {})
        return status

    def migrations(self, name: str) -> list[dict[str, Any]]:
        """The migrations of one placement, oldest first."""
        migrations = [m for m in self.resources("cmig") if m["spec"]["placementName"] == name]
        return sorted(migrations, key=lambda m: (m["spec"]["epoch"], m["spec"].get("attempt", 1)))

    def delete(self, name: str) -> None:
        self.kubectl("delete", "placement", name, "--wait=false", "--ignore-not-found")

    def await_gone(self, name: str) -> None:
        self.until(
            lambda: name not in [p["metadata"]["name"] for p in self.resources("placement")],
            f"{name} is gone",
        )

    def await_running(self, name: str, *, node: str) -> dict[str, Any]:
        """Wait until it runs on the node, is Ready and no longer Reconciling."""

        def settled() -> bool:
            status = self.status(name)
            return (
                status.get("node") == node
                and status.get("phase") == "Running"
                and condition(status, "Ready")["status"] == "True"
                and condition(status, "Reconciling")["status"] != "True"
            )

        self.until(settled, f"{name} runs on {node}")
        return self.status(name)

    def client(self, name: str) -> CounterClient:
        return CounterClient(self.status(name)["address"])

    def goes_on(self, client: CounterClient, *, replies: int = 20) -> None:
        """Wait for further replies on the client's one connection; it must not break."""
        before = client.number

        def answered() -> bool:
            assert client.error == "", client.error
            return client.number >= before + replies

        self.until(answered, "the client's connection goes on")

    def until(self, holds: Callable[[], bool], what: str, *, seconds: float | None = None) -> None:
        seconds = seconds or self._timeout
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                state = self.kubectl("get", "placements,containermigrations", "-A", "-o", "yaml")
                raise AssertionError(f"not within {seconds:g} s: {what}\n{state}")
            time.sleep(POLL_SECONDS)

    def on_node(self, node: str, *command: str) -> str:
        return run_blocking([*enter_words(self._directory, node), *command]).stdout

    def output(self, name: str) -> str:
        """The container's log file, read on its node."""
        placement = self.get("placement", name)
        node, uid = placement["status"].get("node", ""), placement["metadata"]["uid"]
        return self.on_node(node, "cat", f"/var/lib/transship/containers/{uid}/container.log")

    def logs(self, name: str) -> str:
        """`transship logs`; works for nodes that are virtual machines as well."""
        result = CliRunner().invoke(app, ["logs", name, "--kubeconfig", str(self.lab.kubeconfig)])
        assert result.exit_code == 0, result.output
        return result.stdout

    def copies(self, name: str) -> dict[str, int]:
        """How many processes of the container each node has, by the kernel."""
        uid = self.get("placement", name)["metadata"]["uid"]
        return {node: len(self.processes(node, uid)) for node in self.lab.nodes}

    def processes(self, node: str, uid: str) -> list[str]:
        script = f"grep -l {uid} /proc/[0-9]*/cgroup 2>/dev/null || true"
        return self.on_node(node, "sh", "-c", script).split()

    def await_one_copy(self, name: str, *, node: str) -> None:
        """Wait until it has processes on this node and on no other."""

        def alone() -> bool:
            processes = self.copies(name)
            return processes[node] > 0 and sum(processes.values()) == processes[node]

        self.until(alone, f"{name} has processes on {node} only")

    def leftovers(self, uid: str) -> dict[str, str]:
        """What the nodes still have of a container that is gone, by node."""
        script = (
            f"ls -d /var/lib/transship/containers/{uid} /var/lib/transship/journal/{uid}.json "
            f"/run/transship/runc/{uid} /run/transship/netns/{uid} 2>/dev/null; "
            f"grep {uid} /proc/self/mountinfo; grep -l {uid} /proc/[0-9]*/cgroup 2>/dev/null; true"
        )
        outputs = {node: self.on_node(node, "sh", "-c", script) for node in self.lab.nodes}
        return {node: text for node, text in outputs.items() if text.strip()}

    def kill(self, target: str) -> None:
        fault_injection.kill(
            self._directory, self._state(), fault_injection.parse_target(target, self.lab)
        )

    def restart(self, target: str) -> None:
        fault_injection.restart(
            self._directory, self._state(), fault_injection.parse_target(target, self.lab)
        )

    def partition(self, one: str, other: str) -> None:
        fault_injection.partition(self._directory, self._state(), source=one, target=other)

    def limit_rate(self, rate: str | None) -> None:
        """Limit every node's link, such as to 100mbit; `heal` removes the limit."""
        bits = None if rate is None else parse_rate(rate)
        fault_injection.limit_rate(self._directory, self._state(), bits)

    def heal(self) -> None:
        fault_injection.heal(self._directory, self._state())
        if self._state().link_rate is not None:
            self.limit_rate(None)

    def clear(self) -> None:
        """Delete all placements and wait until they are gone, with their migrations.

        The garbage collector of a new control plane ignores custom resources for half a minute.
        """
        self.kubectl("delete", "placements", "--all", "--wait=false")
        self.until(lambda: not self.resources("placement"), "all placements are gone")
        self.until(lambda: not self.resources("cmig"), "their migrations are gone")

    def _kubeconfig(self) -> tuple[str, Path]:
        assert self.lab.kubeconfig is not None
        return "--kubeconfig", self.lab.kubeconfig

    def _state(self) -> LabState:
        return load_state(self._directory)


def condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    absent = {"status": "Unknown", "reason": "", "message": ""}
    return next((c for c in status.get("conditions", []) if c["type"] == kind), absent)
