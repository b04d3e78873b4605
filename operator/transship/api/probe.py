"""Probes: how an agent finds out whether a container lives, is ready, has started."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from transship.api.base import ApiModel, Int32, Text, int32, list_atomic, rule, rules

Port = Annotated[int, int32(1, 65535)]


class ExecAction(ApiModel):
    """Succeeds when the command ends with status 0 inside the container."""

    command: Annotated[tuple[Text, ...], Field(min_length=1, **list_atomic(max_items=64))]


class TcpSocketAction(ApiModel):
    """Succeeds when the port of the container's address accepts a connection."""

    port: Port


class HttpGetAction(ApiModel):
    """Succeeds when the answer's status is from 200 to 399."""

    port: Port
    path: Annotated[str, Field(max_length=4096, pattern=r"^/")] = "/"


class Probe(ApiModel):
    """Exactly one of exec, tcpSocket and httpGet; the numbers mean what they mean in a Pod."""

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
    """Seconds after the start before the first probe."""
    period_seconds: Annotated[int, int32(1, 86400)] = 10
    """Seconds between two probes."""
    timeout_seconds: Annotated[int, int32(1, 3600)] = 1
    """Seconds after which a probe without an answer has failed."""
    failure_threshold: Annotated[int, int32(1, 1000)] = 3
    """How many failures in a row count."""
    success_threshold: Annotated[int, int32(1, 1000)] = 1
    """How many successes in a row count."""
