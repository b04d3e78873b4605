"""The command line of the operator."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transship.common.tls import TlsFiles


@dataclass(frozen=True)
class Options:
    kubeconfig: Path | None
    tls: TlsFiles
    name: str
    leader_elect: bool
    health_port: int | None
    metrics_port: int | None
    log_level: str


def parse(argv: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m transship.controller", description="The operator of Transship."
    )
    parser.add_argument("--kubeconfig", type=Path, help="default: $KUBECONFIG, then the pod's own")
    parser.add_argument("--ca", type=Path, required=True, help="authority of agents and operator")
    parser.add_argument("--cert", type=Path, required=True, help="the operator's certificate")
    parser.add_argument("--key", type=Path, required=True, help="the operator's private key")
    parser.add_argument(
        "--name",
        default=f"{socket.gethostname()}-{os.getpid()}",
        help="of this process, in leases and events",
    )
    parser.add_argument("--leader-elect", action="store_true", help="act only while leading")
    parser.add_argument("--health-port", type=int, help="serve /healthz on this port")
    parser.add_argument("--metrics-port", type=int, help="serve /metrics on this port")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING"])
    given = parser.parse_args(argv)
    return Options(
        kubeconfig=given.kubeconfig,
        tls=TlsFiles(given.ca, given.cert, given.key),
        name=given.name,
        leader_elect=given.leader_elect,
        health_port=given.health_port,
        metrics_port=given.metrics_port,
        log_level=given.log_level,
    )
