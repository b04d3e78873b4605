"""`transship demo`: moves a container under a client, in a lab, by editing its resource."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from transship.cli.options import out
from transship.common.errors import DeadlineExceeded, TransshipError
from transship.common.processes import run_blocking
from transship.lab import cluster
from transship.lab.control_plane.assets import ensure_assets
from transship.lab.proof.counter_client import CounterClient
from transship.lab.state import LabState

LAB = "demo"
TIMEOUT_SECONDS = 120.0
POLL_SECONDS = 0.05
MOVES = 4

PLACEMENT = """\
apiVersion: transship.dev/v1alpha1
kind: ContainerPlacement
metadata:
  name: counter
spec:
  targetNode: node-a
  container:
    image: {registry}/counter:1
    env:
    - {{name: MEMORY_MIB, value: "64"}}
    - {{name: DIRTY_MIB_PER_SECOND, value: "10"}}
    readinessProbe: {{tcpSocket: {{port: 7000}}, periodSeconds: 1}}
"""


def run_demo() -> None:
    """Bring up a lab, move a container under a client by editing its resource, and clean up."""
    try:
        state = cluster.up(LAB, 2, say=lambda text: out.print(f"  {text}"))
        _Demo(state).run()
    finally:
        out.print("cleaning up")
        cluster.down(LAB)


class _Demo:
    def __init__(self, state: LabState) -> None:
        if state.kubeconfig is None:
            raise TransshipError("the lab has no kubeconfig")
        self._state, self._kubeconfig = state, state.kubeconfig
        self._binary: Path = ensure_assets(out.print).kubectl

    def run(self) -> None:
        out.print("\n$ kubectl apply -f counter.yaml")
        manifest = PLACEMENT.format(registry=self._state.registry)
        out.print(manifest, highlight=False)
        self._kubectl("apply", "-f", "-", stdin=manifest)
        self._kubectl("wait", "--for=condition=Ready", "placement/counter", "--timeout=60s")
        address = self._status("{.status.address}")
        with CounterClient(address) as client:
            out.print(
                f"a client requests number after number on one TCP connection to {address}:7000\n"
            )
            for move in range(MOVES):
                self._move(self._state.nodes[(move + 1) % 2], client)
            out.print(f"\none connection, {client.number:,} replies, all in order")
        out.print(self._kubectl("get", "containermigrations", "-o", "wide"), highlight=False)

    def _move(self, target: str, client: CounterClient) -> None:
        patch = f'{{"spec":{{"targetNode":"{target}"}}}}'
        out.print(f"$ kubectl patch placement counter --type=merge -p '{patch}'", highlight=False)
        client.reset()
        began = time.monotonic()
        self._kubectl("patch", "placement", "counter", "--type=merge", "-p", patch)
        self._await(f"on {target}", lambda: self._arrived(target))
        total = time.monotonic() - began
        first = client.measurement().replies
        self._await("answering", lambda: bool(client.error) or client.measurement().replies > first)
        if client.error:
            raise TransshipError(f"the client's connection broke: {client.error}")
        blackout = self._status("{.status.lastMigration.blackoutMilliseconds}")
        gap = client.measurement().longest_gap_milliseconds
        out.print(
            f"  it runs on {target} after {total:.2f} s: the blackout was {blackout} ms, "
            f"the client's longest wait {gap:.0f} ms",
            highlight=False,
        )

    def _arrived(self, target: str) -> bool:
        status = self._status("{.status.node} {.status.phase} {.status.lastMigration.to}")
        return status == f"{target} Running {target}"

    def _status(self, path: str) -> str:
        return self._kubectl("get", "placement", "counter", "-o", f"jsonpath={path}").strip()

    def _kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        argv: list[str | Path] = [self._binary, "--kubeconfig", self._kubeconfig, *arguments]
        body = None if stdin is None else stdin.encode()
        return run_blocking(argv, stdin=body).stdout

    def _await(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                resources = self._kubectl("get", "placements,containermigrations", "-o", "yaml")
                raise DeadlineExceeded(f"the container is not {what} in time:\n{resources}")
            time.sleep(POLL_SECONDS)
