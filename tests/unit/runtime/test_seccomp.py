from __future__ import annotations

import pytest

from transship.runtime.oci import Seccomp, SyscallRule
from transship.runtime.seccomp import profile


def rules(seccomp: Seccomp, name: str) -> list[SyscallRule]:
    return [rule for rule in seccomp.syscalls if name in rule.names]


@pytest.mark.parametrize("capabilities", [(), ("SYS_ADMIN",)])
@pytest.mark.parametrize(
    "name",
    [
        "io_uring_setup", "io_uring_enter", "io_uring_register",
        "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self",
    ],
)  # fmt: skip
def test_what_criu_cannot_take_along_looks_like_an_older_kernel(
    name: str, capabilities: tuple[str, ...]
) -> None:
    (rule,) = rules(profile(capabilities=capabilities, machine="x86_64"), name)
    assert (rule.action, rule.errno_ret) == ("SCMP_ACT_ERRNO", 38)


@pytest.mark.parametrize("name", ["mount", "unshare", "userfaultfd", "kexec_load", "bpf", "keyctl"])
def test_what_reaches_beyond_the_container_is_refused(name: str) -> None:
    (rule,) = rules(profile(capabilities=(), machine="x86_64"), name)
    assert rule.errno_ret == 1


def test_a_capability_opens_its_calls_and_no_others() -> None:
    actual = profile(capabilities=("SYS_ADMIN",), machine="x86_64")
    assert not rules(actual, "mount")
    assert not rules(actual, "clone")
    assert rules(actual, "init_module")
    assert rules(actual, "io_uring_setup")


def test_clone_may_not_make_any_namespace() -> None:
    actual = rules(profile(capabilities=(), machine="x86_64"), "clone")
    flags = {rule.args[0].value for rule in actual}
    assert sum(flags) == 0x7E020000
    assert all(rule.args[0].value == rule.args[0].value_two for rule in actual)
    assert {rule.args[0].index for rule in actual} == {0}


def test_clone3_hides_its_flags_and_is_not_there() -> None:
    (rule,) = rules(profile(capabilities=(), machine="x86_64"), "clone3")
    assert rule.errno_ret == 38


def test_the_other_instruction_sets_of_a_cpu_are_covered() -> None:
    assert "SCMP_ARCH_X86" in profile(capabilities=(), machine="x86_64").architectures
    assert "SCMP_ARCH_ARM" in profile(capabilities=(), machine="aarch64").architectures
