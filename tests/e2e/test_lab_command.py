"""The command `transship lab`, on the lab that all tests share."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from transship.lab.state import LabState

pytestmark = pytest.mark.lab

PROGRAM = [sys.executable, "-c", "from transship.cli import main; main()"]

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def transship(lab: LabState) -> Command:
    """Run `transship lab COMMAND --name LAB WORDS...`."""

    def run(command: str, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [*PROGRAM, "lab", command, "--name", lab.name, *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)

    return run


def test_the_environment_is_what_a_shell_evaluates(transship: Command, lab: LabState) -> None:
    script = transship("env").stdout + "\necho $KUBECONFIG $TRANSSHIP_REGISTRY"
    output = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.split() == [str(lab.kubeconfig), lab.registry]


def test_the_environment_can_be_had_as_json(transship: Command, lab: LabState) -> None:
    assert json.loads(transship("env", "--json").stdout)["registry"] == lab.registry


def test_a_command_on_a_node_gives_its_output_and_its_exit_status(transship: Command) -> None:
    done = transship("exec", "node-a", "--", "sh", "-c", "cat /proc/sys/kernel/hostname; exit 7")
    assert (done.stdout, done.returncode) == ("node-a\n", 7)


def test_the_status_says_that_everything_runs(transship: Command, lab: LabState) -> None:
    done = transship("status", "--json")
    assert done.returncode == 0
    status = json.loads(done.stdout)
    assert [host["name"] for host in status["hosts"]] == [*lab.nodes, "operator"]
    assert {"etcd", "kube-apiserver", "registry"} <= {
        server["name"] for server in status["servers"]
    }


def test_a_killed_agent_is_reported_until_it_is_restarted(transship: Command) -> None:
    try:
        assert transship("kill", "agent:node-b").returncode == 0
        done = transship("status", "--json")
        assert done.returncode == 1
        down = [h["name"] for h in json.loads(done.stdout)["hosts"] if not h["service_running"]]
        assert down == ["node-b"]
    finally:
        assert transship("restart", "agent:node-b").returncode == 0
    assert transship("status").returncode == 0


def test_the_logs_of_the_components_can_be_read(transship: Command) -> None:
    assert "operator runs" in transship("logs").stdout
    assert "agent serves" in transship("logs", "agent:node-a").stdout


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("kill", "node-a"), 2),
        (("restart", "agent:nowhere"), 2),
        (("partition", "node-a", "node-a"), 2),
        (("partition", "node-a", "nowhere"), 1),
        (("exec", "nowhere", "--", "true"), 1),
        (("logs", "nothing"), 1),
    ],
)
def test_a_mistake_is_explained_in_one_line_and_changes_nothing(
    transship: Command, words: tuple[str, ...], status: int
) -> None:
    done = transship(*words)
    assert done.returncode == status
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_lab_that_does_not_exist_is_reported_as_such() -> None:
    argv = [*PROGRAM, "lab", "env", "--name", "nowhere"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "there is no lab called nowhere" in done.stderr
