"""Make the recording of the README anew (`make recording`), from a real session on a lab.

A lab of two nodes comes up, a container is placed on it, and in a terminal of 90 columns (tmux, two
panes) a client counts below while the commands of SCENES are typed above. What the terminal shows,
and when, goes into demo.cast (asciinema's format, version 2), and from there into demo.svg.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import pty
import shlex
import shutil
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from recording.render import render

from transship.common.processes import run_blocking
from transship.lab import cluster
from transship.lab.images.sample_images import sample_name
from transship.lab.state import LabState, lab_dir

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
CAST, PICTURE = HERE / "demo.cast", HERE / "demo.svg"

COLUMNS, ROWS, CLIENT_ROWS = 90, 18, 2
KEY_SECONDS = 0.035
READ_SECONDS = 1.3  # what a viewer needs for an output
END_SECONDS = 2.5
TIMEOUT_SECONDS = 60.0
PROMPT = "$"
PS1 = f"\\[\\e[1;32m\\]{PROMPT}\\[\\e[0m\\] "

PLACEMENT = """\
apiVersion: transship.dev/v1alpha1
kind: ContainerPlacement
metadata: {{name: counter}}
spec:
  targetNode: node-a
  container:
    image: {image}
    env:
    - {{name: MEMORY_MIB, value: "64"}}
    - {{name: DIRTY_MIB_PER_SECOND, value: "10"}}
    readinessProbe: {{tcpSocket: {{port: 7000}}, periodSeconds: 1}}
"""
PATCH = """kubectl patch placement counter --type=merge -p '{"spec":{"targetNode":"node-b"}}'"""


class Kubectl:
    def __init__(self, state: LabState) -> None:
        if state.kubectl is None or state.kubeconfig is None:
            sys.exit("the lab is not complete")
        self.folder = state.kubectl.parent
        self._words = [str(state.kubectl), "--kubeconfig", str(state.kubeconfig)]

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        body = None if stdin is None else stdin.encode()
        return run_blocking([*self._words, *arguments], stdin=body).stdout.strip()

    def status(self, path: str) -> str:
        return self("get", "placement", "counter", f"--output=jsonpath={{.status.{path}}}")


class Terminal:
    """A tmux of our own, attached to a pseudo-terminal whose output is kept with its times."""

    def __init__(self, name: str, environment: dict[str, str]) -> None:
        self._tmux = ["tmux", "-u", "-L", name, "-f", "/dev/null"]
        self._environment = environment
        self.events: list[tuple[float, str]] = []

    def open(self, client: str) -> None:
        size = ["-x", str(COLUMNS), "-y", str(ROWS)]
        # a shell that runs a command drops PS1 from what it hands on
        shell = f"env PS1={shlex.quote(PS1)} bash --norc --noprofile"
        self.tmux("new-session", "-d", *size, shell)
        self.tmux("set", "-g", "status", "off")
        self.tmux("set", "-g", "pane-border-style", "fg=brightblack")
        self.tmux("set", "-g", "pane-active-border-style", "fg=brightblack")
        self.tmux("split-window", "-d", "-l", str(CLIENT_ROWS), client)

    def tmux(self, *words: str) -> str:
        done = subprocess.run(
            [*self._tmux, *words],
            env=self._environment,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout

    def close(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self.tmux("kill-server")

    def lines(self, pane: int) -> list[str]:
        shown = self.tmux("capture-pane", "-p", "-t", f":.{pane}").splitlines()
        return [line.rstrip() for line in shown if line.strip()]

    def type(self, command: str) -> None:
        """As a person would; returns once the prompt is back."""
        for key in command:
            self.tmux("send-keys", "-t", ":.0", "-l", key)
            time.sleep(KEY_SECONDS)
        before = self.lines(0)
        self.tmux("send-keys", "-t", ":.0", "Enter")
        until(lambda: self.lines(0)[-1:] == [PROMPT] and self.lines(0) != before)

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        child, master = pty.fork()
        if child == 0:
            words = [*self._tmux, "attach"]
            os.execvpe(words[0], words, self._environment)  # noqa: S606
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        reader = threading.Thread(target=self._read, args=(master,))
        reader.start()
        try:
            yield
        finally:
            shown = len(self.events)  # tmux clears the screen when it is left
            self.tmux("detach-client")
            reader.join()
            del self.events[shown:]
            os.waitpid(child, 0)
            os.close(master)

    def _read(self, master: int) -> None:
        began = time.monotonic()
        left = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while data := os.read(master, 1 << 16):
                text, left = decoded(left + data)
                self.events.append((time.monotonic() - began, text))


def decoded(data: bytes) -> tuple[str, bytes]:
    """The text, and the bytes of a character that is not complete yet."""
    try:
        return data.decode(), b""
    except UnicodeDecodeError as e:
        return data[: e.start].decode(), data[e.start :]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            sys.exit("what was waited for did not come")
        time.sleep(0.05)


def environment(state: LabState, kubectl: Kubectl) -> dict[str, str]:
    path = f"{REPOSITORY / '.venv/bin'}:{kubectl.folder}:{os.environ['PATH']}"
    return {
        "HOME": "/nonexistent",  # nobody's settings
        "KUBECONFIG": str(state.kubeconfig),
        "LANG": "C.UTF-8",
        "PATH": path,
        "TERM": "linux",
    }


def session(terminal: Terminal, kubectl: Kubectl) -> None:
    time.sleep(1.0)
    terminal.type("kubectl get placements")
    time.sleep(READ_SECONDS)
    terminal.type(PATCH)
    until(lambda: kubectl.status("lastMigration.to") == "node-b")
    terminal.type("kubectl get placements")
    time.sleep(READ_SECONDS)
    terminal.type("transship migrations")
    time.sleep(END_SECONDS)


def place(state: LabState, kubectl: Kubectl) -> str:
    """Start the container; returns its address."""
    manifest = PLACEMENT.format(image=sample_name(str(state.registry), "counter"))
    kubectl("apply", "--filename=-", stdin=manifest)
    kubectl("wait", "--for=condition=Ready", "placement/counter", "--timeout=60s")
    return kubectl.status("address")


def record(state: LabState, name: str) -> list[tuple[float, str]]:
    kubectl = Kubectl(state)
    address = place(state, kubectl)
    terminal = Terminal(f"transship-recording-{name}", environment(state, kubectl))
    try:
        terminal.open(f"{sys.executable} {HERE / 'client.py'} {address}")
        until(lambda: "answers" in "".join(terminal.lines(1)))
        with terminal.recorded():
            session(terminal, kubectl)
        if "broke" in "".join(terminal.lines(1)):
            sys.exit("the client's connection broke")
    finally:
        terminal.close()
    return terminal.events


def write_cast(events: list[tuple[float, str]]) -> None:
    header = {"version": 2, "width": COLUMNS, "height": ROWS, "env": {"TERM": "linux"}}
    lines = [json.dumps(header)]
    lines += [json.dumps([round(at, 3), "o", text], ensure_ascii=False) for at, text in events]
    CAST.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="lab", help="the name of the lab")
    parser.add_argument("--picture-only", action="store_true", help="draw the cast that is there")
    given = parser.parse_args()
    if not given.picture_only:
        if lab_dir(given.name).exists():
            sys.exit(f"there is a lab {given.name} already: choose another name by --name")
        if shutil.which("tmux") is None:
            sys.exit("tmux is not installed: make recording")
        try:
            state = cluster.up(given.name, 2, say=lambda line: print(line, file=sys.stderr))
            write_cast(record(state, given.name))
        finally:
            cluster.down(given.name)
    PICTURE.write_text(render(CAST.read_text()))
    print(f"{PICTURE}: {PICTURE.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
