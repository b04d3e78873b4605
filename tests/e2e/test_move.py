"""The main feature: editing spec.targetNode moves the running container."""

from __future__ import annotations

import socket
import threading
from functools import partial

import pytest
from world import World, condition

pytestmark = pytest.mark.lab


def test_apply_starts_a_container_that_the_machine_reaches(world: World) -> None:
    world.apply("counter")
    status = world.await_running("counter", node="node-a")

    assert status["epoch"] == 1
    assert (
        status["observedGeneration"] == world.get("placement", "counter")["metadata"]["generation"]
    )
    with world.client("counter") as client:
        world.goes_on(client)
    world.kubectl("wait", "--for=condition=Ready", "placement/counter", "--timeout=5s")


def test_editing_the_target_node_moves_it_with_memory_files_address_and_connection(
    world: World,
) -> None:
    env = [{"name": "MEMORY_MIB", "value": "64"}, {"name": "DIRTY_MIB_PER_SECOND", "value": "10"}]
    world.apply("counter", container={"env": env})
    address = world.await_running("counter", node="node-a")["address"]

    with world.client("counter") as client:
        world.goes_on(client)
        world.move("counter", "node-b")
        status = world.await_running("counter", node="node-b")
        world.goes_on(client)

    assert status["address"] == address
    assert status["epoch"] == 2
    assert status["lastMigration"]["from"] == "node-a"
    assert status["lastMigration"]["blackoutMilliseconds"] > 0
    assert status["lastMigration"]["bytes"] > 64 << 20
    world.await_one_copy("counter", node="node-b")
    [migration] = world.migrations("counter")
    assert condition(migration["status"], "Succeeded")["status"] == "True"
    assert migration["status"]["phase"] == "Succeeded"


def test_ten_moves_in_a_row_keep_one_connection_and_never_go_back(world: World) -> None:
    world.apply("counter", container={"env": [{"name": "MEMORY_MIB", "value": "32"}]})
    world.await_running("counter", node="node-a")

    with world.client("counter") as client:
        for move in range(10):
            node = world.lab.nodes[(move + 1) % 3]
            world.move("counter", node)
            world.await_running("counter", node=node)
            world.goes_on(client)
    world.await_one_copy("counter", node="node-b")
    assert world.status("counter")["epoch"] == 11


def test_nothing_that_it_says_is_lost(world: World) -> None:
    program = "import time\nn = 0\nwhile True: n += 1; print(n, flush=True); time.sleep(0.01)"
    container = {"image": world.image("counter"), "command": ["python3", "-c", program]}
    world.apply("talker", container={**container, "terminationGracePeriodSeconds": 1})
    world.await_running("talker", node="node-a")

    def logged_numbers() -> list[int]:
        return [int(line.split()[-1]) for line in world.output("talker").splitlines()]

    for node in ("node-b", "node-c", "node-b"):
        world.move("talker", node)
        world.await_running("talker", node=node)
        before = logged_numbers()[-1]
        world.until(lambda: logged_numbers()[-1] > before, "it talks on")  # noqa: B023
    numbers = logged_numbers()
    assert numbers == list(range(1, len(numbers) + 1))


def test_redis_keeps_every_acknowledged_write(world: World) -> None:
    world.apply("redis", container={"image": world.image("redis")})
    address = world.await_running("redis", node="node-a")["address"]
    writer = RedisWriter(address)
    writer.start()
    try:
        for node in ("node-b", "node-c", "node-a"):
            acknowledged = writer.acknowledged
            world.move("redis", node)
            world.await_running("redis", node=node)
            world.until(lambda: writer.acknowledged > acknowledged + 100, "writes go on")  # noqa: B023
    finally:
        writer.stop()
    assert writer.error == ""
    assert writer.missing() == []


@pytest.mark.parametrize("path", ["/data/lines", "/lines"])
def test_a_container_that_writes_a_file_all_the_time_loses_no_line(world: World, path: str) -> None:
    env = [{"name": "WRITE_FILE", "value": path}]
    mounts = [{"name": "data", "mountPath": "/data"}]
    world.apply(
        "writer",
        container={"env": env, "volumeMounts": mounts},
        volumes=[{"name": "data", "emptyDir": {}}],
    )
    world.await_running("writer", node="node-a")
    for node in ("node-b", "node-a", "node-c"):
        before = len(lines(world, "writer", path))
        world.until(lambda: len(lines(world, "writer", path)) > before + 20, "it writes")  # noqa: B023
        world.move("writer", node)
        world.await_running("writer", node=node)
    after = len(lines(world, "writer", path))
    world.until(lambda: len(lines(world, "writer", path)) > after + 20, "it goes on writing")
    numbers = [int(line) for line in lines(world, "writer", path)]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_a_task_that_job_control_had_stopped_is_still_stopped_after_the_move(world: World) -> None:
    script = "sleep 100000 & kill -STOP $!; exec /usr/local/bin/counter"
    world.apply("asleep", container={"command": ["sh", "-c", script]})
    world.await_running("asleep", node="node-a")
    world.until(lambda: len(stopped(world, "asleep", "node-a")) == 1, "the task is stopped")
    asleep = stopped(world, "asleep", "node-a")
    with world.client("asleep") as client:
        world.move("asleep", "node-b")
        world.await_running("asleep", node="node-b")
        world.goes_on(client)
    assert stopped(world, "asleep", "node-b") == asleep


def stopped(world: World, name: str, node: str) -> list[str]:
    """Names of the container's tasks in state T."""
    uid = world.get("placement", name)["metadata"]["uid"]
    names = []
    for path in world.processes(node, uid):
        stat = world.on_node(node, "cat", path.replace("/cgroup", "/stat"))
        comm, _, rest = stat.partition("(")[2].rpartition(")")
        if rest.split()[0] == "T":
            names.append(comm)
    return names


def lines(world: World, name: str, path: str) -> list[str]:
    """Complete lines of a file as a process of the container sees it."""
    node = world.status(name)["node"]
    uid = world.get("placement", name)["metadata"]["uid"]
    pid = world.processes(node, uid)[0].split("/")[2]
    text = world.on_node(node, "cat", f"/proc/{pid}/root{path}")
    return text.splitlines() if text.endswith("\n") else text.splitlines()[:-1]


class RedisWriter(threading.Thread):
    """Writes keys one after the other and remembers which were acknowledged."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._ended = threading.Event()
        self.acknowledged = 0
        self.error = ""

    def run(self) -> None:
        try:
            with self._connect() as sock, sock.makefile("rwb", buffering=0) as stream:
                while not self._ended.is_set():
                    number = self.acknowledged
                    stream.write(command("SET", f"key-{number}", str(number)))
                    if stream.readline() != b"+OK\r\n":
                        raise ConnectionError("the server refused a write")
                    self.acknowledged += 1
        except OSError as e:
            self.error = f"{type(e).__name__}: {e}"

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def missing(self) -> list[int]:
        """Acknowledged writes that a new connection does not find."""
        found = []
        with self._connect() as sock, sock.makefile("rwb") as stream:
            for number in range(self.acknowledged):
                stream.write(command("GET", f"key-{number}"))
                stream.flush()
                size = int(stream.readline()[1:])
                if size < 0 or int(stream.read(size + 2)) != number:
                    found.append(number)
        return found

    def _connect(self) -> socket.socket:
        return socket.create_connection((self._address, 6379), timeout=30)


def command(*words: str) -> bytes:
    """One request of the Redis protocol."""
    parts = [f"*{len(words)}\r\n", *(f"${len(word)}\r\n{word}\r\n" for word in words)]
    return "".join(parts).encode()


def test_stop_and_copy_keeps_memory_and_connection(world: World) -> None:
    env = [{"name": "MEMORY_MIB", "value": "64"}, {"name": "DIRTY_MIB_PER_SECOND", "value": "10"}]
    world.apply("counter", container={"env": env}, migration={"strategy": "StopAndCopy"})
    world.await_running("counter", node="node-a")
    with world.client("counter") as client:
        for node in ("node-b", "node-a"):
            world.move("counter", node)
            status = world.await_running("counter", node=node)
            world.goes_on(client)
            assert status["lastMigration"]["strategy"] == "StopAndCopy"


def test_the_percentage_that_a_user_watches_never_falls(world: World) -> None:
    """Of two moves from one node: one waits for the other's handover."""
    names = ("one", "other")
    for name in names:
        world.apply(name, container={"env": [{"name": "MEMORY_MIB", "value": "64"}]})
    for name in names:
        world.await_running(name, node="node-a")
    columns = "{.spec.placementName} {.status.percent} {.status.phase}"
    with world.watching("cmig", columns) as lines:
        for name in names:
            world.move(name, "node-b")
        for name in names:
            world.await_running(name, node="node-b")
        for name in names:
            world.until(partial(lines.__contains__, f"{name} 100 Succeeded\n"), f"{name}: the end")
    for name in names:
        every = [line.split() for line in lines if line.startswith(f"{name} ")]
        rows = [row for row in every if len(row) == 3]  # the first has no status yet
        percentages = [int(row[1]) for row in rows]
        assert percentages == sorted(percentages)
        assert len(set(percentages)) > 3
        assert {row[2] for row in rows if row[1] == "100"} == {"Succeeded"}
        [migration] = world.migrations(name)
        assert "AwaitTurn" in [step["name"] for step in migration["status"]["steps"]]


def test_a_cold_move_starts_the_program_anew_with_its_files_and_address(world: World) -> None:
    env = [{"name": "WRITE_FILE", "value": "/data/lines"}]
    world.apply(
        "writer",
        container={"env": env, "volumeMounts": [{"name": "data", "mountPath": "/data"}]},
        volumes=[{"name": "data", "emptyDir": {}}],
        migration={"strategy": "Cold"},
    )
    address = world.await_running("writer", node="node-a")["address"]
    world.until(lambda: len(lines(world, "writer", "/data/lines")) > 20, "it writes")
    before = lines(world, "writer", "/data/lines")
    world.move("writer", "node-b")
    status = world.await_running("writer", node="node-b")
    assert status["address"] == address
    assert lines(world, "writer", "/data/lines")[: len(before)] == before
    world.await_one_copy("writer", node="node-b")
