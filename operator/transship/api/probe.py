"""Probes: how an agent checks whether a container is alive, is ready or has started."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from transship.api.base import ApiModel, Int32, Text, int32, list_atomic, rule, rules

Port = Annotated[int, int32(1, 65535)]


class ExecAction(ApiModel):
    """Runs a command in the container. Succeeds if it ends with status 0."""

    command: Annotated[tuple[Text, ...], Field(min_length=1, **list_atomic(max_items=64))]


class TcpSocketAction(ApiModel):
    """Connects to a port of the container's address. Succeeds if the connection is accepted."""

    port: Port


class HttpGetAction(ApiModel):
    """Sends a GET request. Succeeds if the status of the response is from 200 to 399."""

    port: Port
    path: Annotated[str, Field(max_length=4096, pattern=r"^/")] = "/"


class Probe(ApiModel):
    """A check with exactly one of exec, tcpSocket and httpGet. The other fields are as in a Pod."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "[has(self.exec), has(self.tcpSocket), has(self.httpGet)].exists_one(one, one)",
                "must have exactly one of exec, tcpSocket and httpGet",
            )
        )
    )

    exec: ExecAction | None = None
    tcp_socket: TcpSocketAction | None = None
    http_get: HttpGetAction | None = None
    initial_delay_seconds: Int32 = 0
    """The number of seconds between the container's start and the first probe."""
    period_seconds: Annotated[int, int32(1, 86400)] = 10
    """The number of seconds between two probes."""
    timeout_seconds: Annotated[int, int32(1, 3600)] = 1
    """The number of seconds after which a probe without a response fails."""
    failure_threshold: Annotated[int, int32(1, 1000)] = 3
    """The number of consecutive failures after which the probe counts as failed."""
    success_threshold: Annotated[int, int32(1, 1000)] = 1
    """The number of consecutive successes after which a failed probe counts as successful."""
