"""`python3 -m transship.agent`: runs one agent until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from loguru import logger

from transship.agent.app import Agent
from transship.agent.migration.handover_queue import HANDOVERS_AT_ONCE
from transship.agent.node.facts import Identity
from transship.agent.settings import Settings
from transship.agentapi.paths import PORT
from transship.common import logs
from transship.common.errors import TransshipError
from transship.common.threads import shorten_switch_interval
from transship.runtime import plain_process
from transship.runtime.layout import Layout

THREADS = 32
"""Of the event loop; they wait for disks and child processes, most of the time."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="transship-agent", description=__doc__)
    parser.add_argument("--node", required=True, help="this node's name")
    parser.add_argument("--address", required=True, help="this node's IP in the nodes' network")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--underlay", default="eth0", help="the link that has --address")
    parser.add_argument("--kubeconfig", type=Path, help="default: as kubectl finds it")
    parser.add_argument(
        "--ca", type=Path, required=True, help="the authority that agents and operator trust"
    )
    parser.add_argument("--cert", type=Path, required=True, help="this agent's certificate")
    parser.add_argument("--key", type=Path, required=True)
    layout = Layout()
    parser.add_argument("--state-dir", type=Path, default=layout.state_dir)
    parser.add_argument("--runtime-dir", type=Path, default=layout.runtime_dir)
    parser.add_argument("--cgroup-parent", default=layout.cgroup_parent)
    parser.add_argument(
        "--host-root",
        type=Path,
        default=layout.host_root,
        help="where the node's file system is mounted, for an agent in a Pod",
    )
    parser.add_argument(
        "--insecure-registry",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="a registry that may be used over plain HTTP; can be repeated",
    )
    parser.add_argument(
        "--handovers-at-once",
        type=int,
        default=HANDOVERS_AT_ONCE,
        metavar="N",
        help="containers that may be frozen at a time; the others wait and keep running",
    )
    parser.add_argument("--log-level", default="INFO")
    return parser.parse_args(arguments)


def settings_of(flags: argparse.Namespace) -> Settings:
    return Settings(
        identity=Identity(node=flags.node, address=flags.address, port=flags.port),
        underlay=flags.underlay,
        layout=Layout(
            state_dir=flags.state_dir,
            runtime_dir=flags.runtime_dir,
            cgroup_parent=flags.cgroup_parent,
            host_root=flags.host_root,
            secrets=_secrets(flags),
        ),
        kubeconfig=flags.kubeconfig,
        authority=flags.ca,
        certificate=flags.cert,
        key=flags.key,
        insecure_registries=tuple(flags.insecure_registry),
        handovers_at_once=max(1, flags.handovers_at_once),
    )


def _secrets(flags: argparse.Namespace) -> tuple[Path, ...]:
    folders = {path.absolute().parent for path in (flags.ca, flags.cert, flags.key)}
    credentials = () if flags.kubeconfig is None else (flags.kubeconfig.absolute(),)
    return (*sorted(folders), *credentials)


async def serve(settings: Settings) -> None:
    """Serve until a signal asks to stop. Raises TaskEnded if a background task has failed."""
    stop = asyncio.Event()
    # Python's default is a few more than the processors: copies of large files would take them all
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    agent = Agent(settings, stop=stop)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await agent.start()
        await stop.wait()
    finally:
        await agent.stop()
    agent.raise_failure()


def _raise_descriptor_limit() -> None:
    """Raise it to the hard limit: a migration opens dozens, a followed log two."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))


def main() -> int:
    flags = parse()
    shorten_switch_interval()
    logs.configure(level=flags.log_level)
    _raise_descriptor_limit()
    os.umask(plain_process.UMASK)  # containers see the modes of files that the agent creates
    try:
        asyncio.run(serve(settings_of(flags)))
    except (TransshipError, OSError) as e:
        logger.bind(cause=str(e)).error("agent failed")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
