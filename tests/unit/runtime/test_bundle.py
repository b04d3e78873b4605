from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from transship.api.container import (
    Capabilities,
    Container,
    ResourceList,
    Resources,
    SecurityContext,
)
from transship.common.errors import InvalidInput
from transship.runtime import oci
from transship.runtime.bundle import (
    Host,
    arguments,
    capabilities,
    environment,
    resources,
    runtime_spec,
)
from transship.runtime.image_format import ImageConfig
from transship.runtime.layout import Layout
from transship.runtime.users import Identity
from transship.runtime.volumes import Bind

HOST = Host(
    machine="x86_64",
    capabilities=frozenset({"SYS_ADMIN", "NET_RAW", "CHOWN"}),
    rlimits={"NOFILE": (20000, 20000), "CORE": (0, 7)},
    oom_score_adj=0,
)
IMAGE = ImageConfig(entrypoint=("/entry",), cmd=("default",), env=("PATH=/image", "A=image"))
LAYOUT = Layout(Path("/state"), Path("/run/x"), "/parent")


def container(**fields: object) -> Container:
    return Container.model_validate({"image": "registry:5000/x:1", **fields})


def spec(
    wanted: Container,
    image: ImageConfig = IMAGE,
    *,
    env: Mapping[str, str] = MappingProxyType({}),
    binds: tuple[Bind, ...] = (),
    host: Host = HOST,
) -> oci.Spec:
    return runtime_spec(
        wanted,
        image,
        container_id="id",
        hostname="host",
        env=env,
        identity=Identity(0, 0),
        binds=binds,
        layout=LAYOUT,
        host=host,
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ("/entry", "default")),
        ({"args": ("a",)}, ("/entry", "a")),
        ({"command": ("/c",)}, ("/c",)),
        ({"command": ("/c",), "args": ("a",)}, ("/c", "a")),
    ],
    ids=["image alone", "args hide cmd", "command hides both", "command and args"],
)
def test_command_and_args_mean_what_they_mean_in_a_pod(
    fields: dict[str, object], expected: tuple[str, ...]
) -> None:
    assert arguments(container(**fields), IMAGE) == expected


def test_an_image_without_a_program_is_refused_with_a_remedy() -> None:
    with pytest.raises(InvalidInput) as caught:
        arguments(container(), ImageConfig())
    assert caught.value.reason == "InvalidImage"
    assert "spec.container.command" in caught.value.hint


def test_the_container_hides_the_image() -> None:
    actual = environment(IMAGE, env={"A": "mine", "B": "b"}, hostname="h", home="/root")
    assert actual == {"PATH": "/image", "HOSTNAME": "h", "HOME": "/root", "A": "mine", "B": "b"}


@pytest.mark.parametrize("text", ["pa$$word", "$(A)", "$(PATH)", "$$(HOME)"])
def test_a_bundle_has_an_orders_texts_as_they_are(text: str) -> None:
    wanted = container(command=("/c", text), args=(text,))
    process = spec(wanted, env={"A": "1", "B": text}).process
    assert process.args == ("/c", text, text)
    assert f"B={text}" in process.env


def test_an_images_own_words_are_never_expanded() -> None:
    image = ImageConfig(entrypoint=("sh", "-c"), cmd=("echo $$ $(A)",), env=("A=1", "B=$$(A)"))
    process = spec(container(), image).process
    assert process.args == ("sh", "-c", "echo $$ $(A)")
    assert "B=$$(A)" in process.env


@pytest.mark.parametrize(
    ("drop", "add", "has", "has_not"),
    [
        ((), (), {"CHOWN", "KILL"}, {"SYS_ADMIN"}),
        (("CHOWN",), ("SYS_ADMIN",), {"SYS_ADMIN", "KILL"}, {"CHOWN"}),
        (("ALL",), ("NET_RAW",), {"NET_RAW"}, {"CHOWN", "KILL"}),
        ((), ("ALL",), {"SYS_ADMIN", "CHOWN", "KILL"}, {"SYS_RESOURCE"}),
        (("SYS_ADMIN",), ("ALL",), {"CHOWN"}, {"SYS_ADMIN"}),
    ],
)
def test_capabilities_are_dropped_then_added(
    drop: tuple[str, ...], add: tuple[str, ...], has: set[str], has_not: set[str]
) -> None:
    context = SecurityContext(capabilities=Capabilities(drop=drop, add=add))
    actual = set(capabilities(context, host=HOST))
    assert has <= actual
    assert not has_not & actual


def test_limits_become_cgroup_limits() -> None:
    limits = ResourceList(cpu="1500m", memory="256Mi", pids=100)
    requests = ResourceList(cpu="250m")
    actual = resources(container(resources=Resources(limits=limits, requests=requests)))
    assert actual.memory == oci.Memory(limit=256 << 20)
    assert actual.pids == oci.Pids(limit=100)
    assert actual.cpu == oci.Cpu(shares=256, quota=150_000, period=100_000)


def test_without_limits_nothing_is_limited() -> None:
    actual = resources(container())
    assert (actual.memory, actual.cpu, actual.pids) == (None, None, None)


def test_tiny_limits_are_those_that_the_kernel_accepts() -> None:
    actual = resources(container(resources=Resources(limits=ResourceList(cpu="1m"))))
    assert actual.cpu == oci.Cpu(shares=2, quota=1000, period=100_000)


def test_every_namespace_is_new_but_the_network_which_the_agent_made() -> None:
    namespaces = {space.type: space.path for space in spec(container()).linux.namespaces}
    assert namespaces == {
        "pid": None, "ipc": None, "uts": None, "mount": None, "network": "/run/x/netns/id",
    }  # fmt: skip


def test_a_dump_finds_only_one_tmpfs() -> None:
    """Each costs 10 ms in a handover."""
    actual = spec(container())
    assert [mount.destination for mount in actual.mounts if mount.type == "tmpfs"] == ["/dev"]


def test_files_of_etc_and_shared_memory_lie_on_the_node() -> None:
    actual = {mount.destination: mount for mount in spec(container()).mounts}
    assert actual["/etc/hosts"].source == "/state/containers/id/etc/hosts"
    assert actual["/dev/shm"].source == "/state/containers/id/shm"
    assert "bind" in actual["/dev/shm"].options


def test_read_only_mounts_say_so() -> None:
    binds = (Bind(Path("/src"), "/dst", read_only=True),)
    mount = spec(container(), binds=binds).mounts[-1]
    assert (mount.source, mount.destination) == ("/src", "/dst")
    assert mount.options == ("bind", "rprivate", "ro")


def test_criu_is_told_its_configuration_and_runc_the_cgroup() -> None:
    actual = spec(container())
    assert actual.annotations == {"org.criu.config": "/state/containers/id/criu.conf"}
    assert actual.linux.cgroups_path == "/parent/id"


def test_the_document_is_what_runc_reads() -> None:
    document = json.loads(spec(container(tty=True, workingDir="/w")).text())
    assert document["ociVersion"] == "1.2.0"
    assert document["process"]["terminal"] is True
    assert document["process"]["cwd"] == "/w"
    assert document["process"]["noNewPrivileges"] is False
    assert "CAP_CHOWN" in document["process"]["capabilities"]["bounding"]
    assert document["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ALLOW"
    assert "path" not in document["linux"]["namespaces"][0]


def test_programs_that_use_select_see_1024_files() -> None:
    (limit,) = (one for one in spec(container()).process.rlimits if one.type == "RLIMIT_NOFILE")
    assert (limit.soft, limit.hard) == (1024, 20000)


def test_a_limit_without_end_on_open_files_gets_one() -> None:
    endless = dataclasses.replace(HOST, rlimits={"NOFILE": ((1 << 64) - 1, (1 << 64) - 1)})
    (limit,) = spec(container(), host=endless).process.rlimits
    assert (limit.soft, limit.hard) == (1024, 1 << 20)


def test_what_a_process_would_inherit_is_said() -> None:
    process = json.loads(spec(container()).text())["process"]
    assert process["oomScoreAdj"] == 0
    assert process["user"]["umask"] == 0o022
    assert {"type": "RLIMIT_CORE", "soft": 0, "hard": 7} in process["rlimits"]


def test_the_same_order_gives_the_same_bundle() -> None:
    assert spec(container()).text() == spec(container()).text()
