"""Calls a lab's agents as the operator does, with a certificate of the lab's authority."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPSConnection
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from transship.agentapi import paths
from transship.agentapi.containers import ContainerOrder, ContainerReport
from transship.agentapi.errors import Failure
from transship.agentapi.message import Message
from transship.agentapi.states import RunState
from transship.api.container import Container
from transship.api.placement import DesiredState
from transship.common.certificates import OPERATOR_NAME, ensure_authority, write_credentials
from transship.common.tls import client_context
from transship.lab.state import LabState, lab_dir

TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.05
LISTENS = {"tcpSocket": {"port": 7000}, "periodSeconds": 1}

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    status: int
    text: str

    @property
    def report(self) -> ContainerReport:
        assert self.status < 300, self.text
        return ContainerReport.model_validate_json(self.text)

    @property
    def failure(self) -> Failure:
        return Failure.model_validate_json(self.text)


class AgentClient:
    """One client; its certificate has its name."""

    def __init__(self, lab: LabState, folder: Path, *, name: str = OPERATOR_NAME) -> None:
        self._lab = lab
        authority = ensure_authority(
            lab_dir(lab.name) / "pki", "transship", common_name="transship"
        )
        files = write_credentials(authority.issue(name), folder, "caller")
        (folder / "ca.crt").write_bytes(authority.credentials.certificate)
        self.context = client_context(
            authority=folder / "ca.crt", certificate=files.certificate, key=files.key
        )

    def call(self, node: str, method: str, path: str, *, body: Message | None = None) -> Answer:
        connection = _Connection(str(self._lab.address(node)), node=node, context=self.context)
        try:
            connection.request(
                method, path, body=None if body is None else body.model_dump_json(by_alias=True)
            )
            reply = connection.getresponse()
            return Answer(reply.status, reply.read().decode())
        finally:
            connection.close()


class Workload:
    """One container on one node, managed by the test."""

    def __init__(self, client: AgentClient, lab: LabState, *, node: str, address: str) -> None:
        self.id = str(uuid4())
        self.client, self.node, self.address = client, node, address
        self._registry = lab.registry

    def order(
        self,
        *,
        image: str = "counter:1",
        epoch: int = 1,
        state: DesiredState = DesiredState.RUNNING,
        **container: object,
    ) -> ContainerOrder:
        container = {"terminationGracePeriodSeconds": 2, **container}
        if "command" not in container:  # the counter listens a moment after its start
            container = {"readinessProbe": LISTENS, **container}
        return ContainerOrder(
            id=self.id,
            namespace="default",
            name="guest",
            epoch=epoch,
            addresses=(self.address,),
            container=Container.model_validate({"image": f"{self._registry}/{image}", **container}),
            state=state,
        )

    def apply(self, order: ContainerOrder) -> ContainerReport:
        return self.client.call(self.node, "PUT", self._path(paths.CONTAINER), body=order).report

    def delete(self, *, epoch: int = 1) -> Answer:
        return self.client.call(self.node, "DELETE", f"{self._path(paths.CONTAINER)}?epoch={epoch}")

    def read(self) -> Answer:
        return self.client.call(self.node, "GET", self._path(paths.CONTAINER))

    def log(self, query: str = "") -> str:
        return self.client.call(self.node, "GET", self._path(paths.LOGS) + query).text

    def until(self, condition: Callable[[ContainerReport], bool], *, what: str) -> ContainerReport:
        return _until(lambda: self.read().report, condition, what=what)

    def until_running(self) -> ContainerReport:
        return self.until(lambda r: r.run is RunState.RUNNING and r.ready, what="it runs")

    def until_gone(self) -> None:
        _until(self.delete, lambda answer: answer.status == 204, what="it is gone")

    def count(self) -> int:
        """Request the counter's next number."""
        with socket.create_connection((self.address, 7000), timeout=5) as connection:
            connection.sendall(b"\n")
            return int(connection.makefile().readline())

    def _path(self, pattern: str) -> str:
        return pattern.format(id=self.id)


def _until(read: Callable[[], T], condition: Callable[[T], bool], *, what: str) -> T:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        value = read()
        if condition(value):
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not in {TIMEOUT_SECONDS:g} s: {what}; last seen: {value}")
        time.sleep(POLL_SECONDS)


class _Connection(HTTPSConnection):
    """A connection to an address, with a certificate check for the node's name."""

    def __init__(self, address: str, *, node: str, context: ssl.SSLContext) -> None:
        super().__init__(address, paths.PORT, timeout=10, context=context)
        self._node, self._tls = node, context

    def connect(self) -> None:
        super(HTTPSConnection, self).connect()
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._node)
