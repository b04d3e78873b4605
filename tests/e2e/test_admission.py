"""What admission and scheduling accept, and how kubectl and the doctor report the rest."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from typer.testing import CliRunner
from world import World, condition

from transship.cli.app import app
from transship.common.errors import CommandFailed
from transship.lab.images.sample_images import push_sample_image

pytestmark = pytest.mark.lab

HOST_PATH = {"volumes": [{"name": "node", "hostPath": {"path": "/srv"}}]}
NFS = {"volumes": [{"name": "share", "nfs": {"server": "10.9.9.9", "path": "/export"}}]}
NET_ADMIN = {"securityContext": {"capabilities": {"add": ["NET_ADMIN", "CHOWN"]}}}
ALL = {"securityContext": {"capabilities": {"add": ["ALL"]}}}
LARGE = {"resources": {"requests": {"memory": "500Gi"}}}


@pytest.fixture
def namespace(world: World) -> Iterator[str]:
    name = f"team-{uuid.uuid4().hex[:8]}"
    world.kubectl("create", "namespace", name)
    yield name
    world.kubectl("delete", "placements", "--all", "--namespace", name, "--wait=false")
    world.until(lambda: not listed(world, name), f"{name} is empty")
    world.kubectl("delete", "namespace", name, "--wait=false")


def listed(world: World, namespace: str) -> list[str]:
    return world.kubectl("get", "placements", "--namespace", namespace, "-o", "name").split()


def placement(world: World, namespace: str, **words: Any) -> str:
    container = {"image": world.image("counter"), **words.pop("container", {})}
    spec = {"container": container, "targetNode": "node-a", **words}
    return json.dumps(
        {
            "apiVersion": "transship.dev/v1alpha1",
            "kind": "ContainerPlacement",
            "metadata": {"name": "app", "namespace": namespace},
            "spec": spec,
        }
    )


def refusal(world: World, *words: str, stdin: str | None = None) -> str:
    with pytest.raises(CommandFailed) as failure:
        world.kubectl(*words, stdin=stdin)
    return failure.value.output


def has_reason(world: World, name: str, reason: str) -> bool:
    return bool(row(world, name)["REASON"] == reason)


def row(world: World, name: str, namespace: str = "default") -> dict[str, str]:
    """The cells of a placement in `kubectl get`, by column."""
    header, line = world.kubectl("get", "placement", name, "--namespace", namespace).splitlines()
    starts = [header.index(word) for word in header.split()]
    ends = [*starts[1:], None]
    return {
        header[start:end].strip(): line[start:end].strip()
        for start, end in zip(starts, ends, strict=True)
    }


def doctor(world: World) -> dict[str, str]:
    """Problems by subject."""
    words = ["doctor", "--json", "--kubeconfig", str(world.lab.kubeconfig)]
    result = CliRunner().invoke(app, words)
    findings = json.loads(result.stdout)["findings"]
    assert result.exit_code == (1 if findings else 0)
    assert all(each["remedy"] for each in findings)
    return {each["subject"]: each["problem"] for each in findings}


REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a hostPath volume": (HOST_PATH, ("spec.volumes: hostPath of node (/srv)", "emptyDir")),
    "an nfs volume": (NFS, ("spec.volumes: nfs of share (10.9.9.9:/export)", "emptyDir")),
    "a capability": (
        {"container": NET_ADMIN},
        ("spec.container.securityContext.capabilities.add: NET_ADMIN is refused", "leave it out"),
    ),
    "all capabilities": ({"container": ALL}, ("capabilities.add: ALL is refused",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_reaches_beyond_the_container_is_refused_until_the_namespace_is_labelled(
    world: World, namespace: str, case: str
) -> None:
    words, messages = REFUSED[case]
    body = placement(world, namespace, **words)
    output = refusal(world, "create", "-f", "-", stdin=body)
    label = f"kubectl label namespace {namespace} pod-security.kubernetes.io/enforce=privileged"
    for message in (*messages, label, "Forbidden"):
        assert message in output
    with world.privileged(namespace):
        world.kubectl("create", "--dry-run=server", "-f", "-", stdin=body)


def test_defaults_are_let_in(world: World, namespace: str) -> None:
    context = {"capabilities": {"add": ["NET_BIND_SERVICE", "NET_RAW"], "drop": ["ALL"]}}
    words = {"container": {"securityContext": context}, "volumes": [{"name": "d", "emptyDir": {}}]}
    world.kubectl(
        "create", "--dry-run=server", "-f", "-", stdin=placement(world, namespace, **words)
    )


def test_what_was_allowed_runs_and_goes_but_changes_no_more_without_the_label(
    world: World, namespace: str
) -> None:
    mounts = {"volumeMounts": [{"name": "node", "mountPath": "/node"}]}
    body = placement(world, namespace, container={**NET_ADMIN, **mounts}, **HOST_PATH)
    patch = ("patch", "placement", "app", "--namespace", namespace, "--type=merge", "-p")
    with world.privileged(namespace):
        world.kubectl("create", "-f", "-", stdin=body)
        world.until(lambda: row(world, "app", namespace)["REASON"] == "ContainerReady", "it runs")
    output = refusal(world, *patch, '{"spec": {"targetNode": "node-b"}}')
    assert "spec.volumes: hostPath of node (/srv)" in output
    world.kubectl(*patch, '{"metadata": {"labels": {"a": "b"}}}')
    world.kubectl("delete", "placement", "app", "--namespace", namespace, "--wait=false")
    world.until(lambda: not listed(world, namespace), "the operator lets it go")


def bind(world: World, role: str, *, user: str, namespace: str) -> None:
    name = f"{user}-{role}"
    words = (f"--clusterrole={role}", f"--user={user}", "--namespace", namespace)
    world.kubectl("create", "rolebinding", name, *words)


def may(world: World, verb: str, resource: str, *, user: str, namespace: str) -> bool:
    words = ("auth", "can-i", verb, resource, f"--as={user}", "--namespace", namespace)
    try:
        return world.kubectl(*words).strip() == "yes"
    except CommandFailed:
        return False


def test_roles_of_kubernetes_read_placements_and_do_nothing_with_them(
    world: World, namespace: str
) -> None:
    for role in ("view", "edit", "admin"):
        bind(world, role, user=role, namespace=namespace)
    world.until(
        lambda: may(world, "list", "containerplacements", user="view", namespace=namespace),
        "the roles are aggregated",
    )
    assert may(world, "create", "pods", user="edit", namespace=namespace)
    body = placement(world, namespace)
    for user in ("view", "edit", "admin"):
        output = refusal(world, "create", f"--as={user}", "-f", "-", stdin=body)
        assert "Forbidden" in output
        for verb in ("create", "update", "patch", "delete", "deletecollection"):
            for kind in ("containerplacements", "containermigrations"):
                assert not may(world, verb, kind, user=user, namespace=namespace), (user, verb)
    bind(world, "transship-edit", user="edit", namespace=namespace)
    world.until(
        lambda: may(world, "create", "containerplacements", user="edit", namespace=namespace),
        "the role is bound",
    )
    world.kubectl("create", "--as=edit", "--dry-run=server", "-f", "-", stdin=body)
    body = placement(world, namespace, **HOST_PATH)
    assert "hostPath" in refusal(world, "create", "--as=edit", "-f", "-", stdin=body)
    for user in ("edit", "admin"):
        assert not may(world, "patch", "namespaces", user=user, namespace=namespace)


@pytest.mark.parametrize("node", ["node-a", None])
def test_what_no_node_has_room_for_waits_and_says_so(world: World, node: str | None) -> None:
    world.apply("large", node=node, container={"image": world.image("counter"), **LARGE})
    world.until(
        lambda: condition(world.status("large"), "Ready")["reason"] == "InsufficientMemory",
        "it is not placed",
    )
    columns = row(world, "large")
    assert (columns["PHASE"], columns["REASON"], columns["NODE"]) == (
        "Pending",
        "InsufficientMemory",
        "",
    )
    reconciling = condition(world.status("large"), "Reconciling")
    assert reconciling["status"] == "True"
    assert "requests 512000 MiB of memory" in reconciling["message"]
    assert "InsufficientMemory" in doctor(world)["default/large"]


def test_requests_are_summed_at_the_first_placing_and_at_moves(world: World) -> None:
    total = world.get("nagent", "node-b")["status"]["capacity"]["cpuMillicores"]
    half = {"resources": {"requests": {"cpu": f"{total // 2 + 1}m"}}}
    container = {"image": world.image("counter"), **half}
    world.apply("first", node="node-b", container=container)
    world.await_running("first", node="node-b")
    world.apply("second", node="node-b", container=container)
    world.until(lambda: row(world, "second")["REASON"] == "InsufficientCPU", "it waits")
    world.move("second", "node-a")
    world.await_running("second", node="node-a")
    world.move("second", "node-b")
    world.until(lambda: row(world, "second")["REASON"] == "InsufficientCPU", "its move waits")
    columns = row(world, "second")
    assert (columns["NODE"], columns["TARGET"], columns["PHASE"]) == ("node-a", "node-b", "Running")
    assert world.migrations("second") == []
    world.delete("first")
    world.await_running("second", node="node-b")


def test_a_target_that_cannot_be_had_shows_in_columns_conditions_and_to_the_doctor(
    world: World,
) -> None:
    world.apply("counter")
    world.await_running("counter", node="node-a")
    world.kubectl("patch", "nagent", "node-b", "--type=merge", "-p",
                  '{"spec": {"unschedulable": true}}')  # fmt: skip
    try:
        for node, reason in (("nowhere", "NodeNotFound"), ("node-b", "NodeUnschedulable")):
            world.move("counter", node)
            world.until(partial(has_reason, world, "counter", reason), f"{reason} shows")
            columns = row(world, "counter")
            assert (columns["NODE"], columns["TARGET"]) == ("node-a", node)
            assert columns["PHASE"] == "Running"
            status = world.status("counter")
            assert condition(status, "Reconciling")["reason"] == reason
            assert condition(status, "Ready")["status"] == "True"
            assert doctor(world)["default/counter"].startswith(f"{reason}: ")
            world.await_one_copy("counter", node="node-a")
    finally:
        world.kubectl("patch", "nagent", "node-b", "--type=merge", "-p",
                      '{"spec": {"unschedulable": false}}')  # fmt: skip
    world.await_running("counter", node="node-b")
    assert row(world, "counter")["REASON"] == "ContainerReady"
    world.until(lambda: "default/counter" not in doctor(world), "the doctor is content")


def python(world: World, code: str, **words: Any) -> dict[str, Any]:
    return {"image": world.image("programs"), "command": ["python3", "-c", code], **words}


def test_the_doctor_finds_every_placement_that_is_not_what_its_spec_says(world: World) -> None:
    push_sample_image(world.registry, "programs")
    image, never = world.image("counter"), {"tcpSocket": {"port": 9}, "periodSeconds": 1}
    secret = {"secretKeyRef": {"name": "no-such", "key": "k"}}
    broken: dict[str, tuple[str, dict[str, Any]]] = {
        "large": ("InsufficientMemory", {"image": image, **LARGE}),
        "pull": ("ImagePullFailed", {"image": f"{world.lab.registry}/no-such:1"}),
        "start": ("ContainerStartFailed", {"image": image, "command": ["/no/such/program"]}),
        "crash": ("CrashLoopBackOff", python(world, "raise SystemExit(3)")),
        "unready": ("ContainerNotReady", {"image": image, "readinessProbe": never}),
        "failed": (
            "ContainerExited", python(world, "raise SystemExit(3)", restartPolicy="Never"),
        ),
        "secret": (
            "SecretNotFound", {"image": image, "env": [{"name": "A", "valueFrom": secret}]},
        ),
    }  # fmt: skip
    for name, (_, container) in broken.items():
        world.apply(name, container=container)
    world.apply("nowhere", node="nowhere", container={"image": image})
    world.apply("labels", node=None, container={"image": image}, nodeSelector={"no": "such"})
    world.apply("done", container=python(world, "pass", restartPolicy="Never"))
    world.apply("good")
    reasons = {name: reason for name, (reason, _) in broken.items()}
    reasons |= {"nowhere": "NodeNotFound", "labels": "NoNodeMatches"}

    world.await_running("good", node="node-a")
    world.until(lambda: row(world, "done")["PHASE"] == "Stopped", "it is done")
    for name, reason in reasons.items():
        world.until(partial(has_reason, world, name, reason), f"{name}: {reason}")
    findings = {subject: problem.partition(":")[0] for subject, problem in doctor(world).items()}
    assert findings == {f"default/{name}": reason for name, reason in reasons.items()}
