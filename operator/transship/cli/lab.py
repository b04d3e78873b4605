"""`transship lab`: brings labs up and down, injects faults, and shows their state."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel, ConfigDict
from rich.markup import escape

from transship.cli.options import AsJson, print_table, progress
from transship.common.errors import NotFound, Refused
from transship.lab import cluster
from transship.lab.daemons import daemon_names, log_path, program
from transship.lab.nodes import namespace_nodes
from transship.lab.nodes.network import parse_rate
from transship.lab.proof import fault_injection
from transship.lab.state import LabState, lab_dir, load_state
from transship.lab.status import LabStatus, lab_status

app = typer.Typer(no_args_is_help=True, help="A whole cluster on this machine, for tests.")

Name = Annotated[str, typer.Option("--name", envvar="TRANSSHIP_LAB", help="Name of the lab.")]
What = Annotated[str, typer.Argument(help="operator, agent:NODE or node:NODE")]
Host = Annotated[str, typer.Argument(help="a node, operator, or machine")]
Node = Annotated[str, typer.Argument(help="a node, or operator")]

DEFAULT = "lab"


class LabEnvironment(BaseModel):
    """The settings with which a shell uses a lab."""

    model_config = ConfigDict(frozen=True)

    kubeconfig: Path
    registry: str
    kubectl: Path | None


@app.command()
def up(
    name: Name = DEFAULT,
    number: Annotated[int, typer.Option("--nodes", help="Number of nodes.")] = 2,
    link_rate: Annotated[
        str | None, typer.Option(help="Limit every node's link, such as to 1gbit.")
    ] = None,
    machines: Annotated[
        bool,
        typer.Option("--machines", help="Use virtual machines as nodes, emulated by qemu (slow)."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring up a lab and wait until it is ready. An earlier lab of that name is removed."""
    _require_root()
    rate = None if link_rate is None else parse_rate(link_rate)
    state = cluster.up(name, number, say=_progress(), link_rate=rate, machines=machines)
    if as_json:
        typer.echo(lab_status(lab_dir(name), state).model_dump_json(indent=2))


@app.command()
def down(name: Name = DEFAULT) -> None:
    """Remove a lab completely, whatever its state."""
    _require_root()
    cluster.down(name)


@app.command()
def env(name: Name = DEFAULT, as_json: AsJson = False) -> None:
    """Print shell commands that select the lab: eval "$(transship lab env)"."""
    environment = _environment(load_state(lab_dir(name)))
    if as_json:
        typer.echo(environment.model_dump_json(indent=2))
        return
    typer.echo(f"export KUBECONFIG={shlex.quote(str(environment.kubeconfig))}")
    typer.echo(f"export TRANSSHIP_REGISTRY={shlex.quote(environment.registry)}")
    if environment.kubectl is not None and shutil.which("kubectl") is None:
        typer.echo(f'export PATH="$PATH":{shlex.quote(str(environment.kubectl.parent))}')


@app.command(name="exec")
def execute(node: Node, command: list[str], name: Name = DEFAULT) -> None:
    """Run a command on a node, and exit with its exit code."""
    _require_root()
    directory = lab_dir(name)
    load_state(directory).address(node)
    words = [*namespace_nodes.enter_words(directory, node), *command]
    terminal = {"TERM": os.environ["TERM"]} if "TERM" in os.environ else {}
    os.execve(words[0], words, {**namespace_nodes.ENVIRONMENT, **terminal})  # noqa: S606


@app.command()
def kill(what: What, name: Name = DEFAULT) -> None:
    """Kill a service as a crash does, or cut the power of a node."""
    _require_root()
    with cluster.changing(name) as (directory, state):
        fault_injection.kill(directory, state, fault_injection.parse_target(what, state))


@app.command()
def restart(what: What, name: Name = DEFAULT) -> None:
    """Restart a service or a node."""
    _require_root()
    with cluster.changing(name) as (directory, state):
        fault_injection.restart(directory, state, fault_injection.parse_target(what, state))


@app.command()
def hang(what: What, name: Name = DEFAULT) -> None:
    """Stop a service by SIGSTOP: it answers nothing, and its connections stay open."""
    _require_root()
    with cluster.changing(name) as (directory, state):
        fault_injection.hang(directory, _service(what, state))


@app.command()
def resume(what: What, name: Name = DEFAULT) -> None:
    """Let a service that hangs go on."""
    _require_root()
    with cluster.changing(name) as (directory, state):
        fault_injection.resume(directory, _service(what, state))


@app.command()
def partition(
    one: Host,
    other: Host,
    name: Name = DEFAULT,
    one_way: Annotated[bool, typer.Option(help="Drop only what ONE sends.")] = False,
    percent: Annotated[
        int, typer.Option(min=1, max=100, help="Share of the packets that is dropped.")
    ] = 100,
) -> None:
    """Partition two hosts of the lab's network, in addition to earlier partitions."""
    _require_root()
    with cluster.changing(name) as (directory, state):
        fault_injection.partition(
            directory, state, source=one, target=other, one_way=one_way, percent=percent
        )


@app.command()
def heal(name: Name = DEFAULT) -> None:
    """Undo every partition."""
    _require_root()
    with cluster.changing(name) as (directory, state):
        fault_injection.heal(directory, state)


@app.command()
def status(name: Name = DEFAULT, as_json: AsJson = False) -> None:
    """Print which components of the lab run. Exit code 1 if one does not."""
    directory = lab_dir(name)
    lab = lab_status(directory, load_state(directory))
    if as_json:
        typer.echo(lab.model_dump_json(indent=2))
    else:
        _print_status(lab)
    raise typer.Exit(0 if lab.complete else 1)


@app.command()
def logs(
    what: Annotated[str, typer.Argument(help="operator, agent:NODE, or a server")] = "operator",
    name: Name = DEFAULT,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new lines as they are written.")
    ] = False,
) -> None:
    """Print the log of a component of the lab."""
    directory = lab_dir(name)
    load_state(directory)
    path = log_path(directory, what.replace(":", "-"))
    if not path.exists():
        raise NotFound(
            f"{what} has no log", hint=f"these have one: {', '.join(daemon_names(directory))}"
        )
    if follow:
        tail = program("tail")
        os.execv(tail, [tail, "-n", "+1", "-F", str(path)])  # noqa: S606
    typer.echo(path.read_text(errors="replace"), nl=False)


def _service(what: str, state: LabState) -> fault_injection.Target:
    target = fault_injection.parse_target(what, state)
    if target.kind is fault_injection.Kind.NODE:
        raise Refused(f"{what} cannot hang: only services can", hint="operator or agent:NODE")
    return target


def _environment(state: LabState) -> LabEnvironment:
    if state.kubeconfig is None or state.registry is None:
        raise Refused(f"lab {state.name} is not complete", hint="transship lab up")
    return LabEnvironment(
        kubeconfig=state.kubeconfig, registry=state.registry, kubectl=state.kubectl
    )


def _progress() -> Callable[[str], None]:
    start = time.monotonic()

    def say(message: str) -> None:
        elapsed = f"{time.monotonic() - start:6.1f} s"
        progress.print(f"[dim]{elapsed}[/dim]  {escape(message)}", highlight=False)

    return say


def _print_status(lab: LabStatus) -> None:
    rows: list[tuple[str, ...]] = []
    for host in lab.hosts:
        rows.append((host.name, str(host.address), _state(running=host.running)))
        rows.append((f"  {host.service}", "", _state(running=host.service_running)))
    rows += [(server.name, "", _state(running=server.running)) for server in lab.servers]
    print_table(("NAME", "ADDRESS", "STATE"), rows)
    for cut in lab.cuts:
        typer.echo(f"cut: nothing from {cut.source} reaches {cut.target}")


def _state(*, running: bool) -> str:
    return "running" if running else "down"


def _require_root() -> None:
    if os.geteuid() != 0:
        raise Refused("a lab makes namespaces, mounts and links", hint="run the command as root")
