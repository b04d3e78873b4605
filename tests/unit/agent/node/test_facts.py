from __future__ import annotations

from transship.agent.node.facts import (
    Identity,
    cpu_flags,
    cpu_model,
    has_pagemap_scan,
    memory_bytes,
    version_of,
)

X86 = """processor\t: 0
model name\t: Some CPU @ 2.00GHz
flags\t\t: sse2 avx fpu

processor\t: 1
model name\t: Some CPU @ 2.00GHz
flags\t\t: sse2 avx fpu
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd\n"


def test_the_cpu_is_read_on_both_architectures() -> None:
    assert cpu_flags(X86) == ("avx", "fpu", "sse2")
    assert cpu_model(X86) == "Some CPU @ 2.00GHz"
    assert cpu_flags(ARM) == ("asimd", "fp")
    assert cpu_model(ARM) == ""


def test_memory_is_read_in_bytes() -> None:
    text = "MemTotal:       1000 kB\nHugePages_Total:       0\nMemAvailable:    10 kB\n"
    assert memory_bytes(text) == {"MemTotal": 1_024_000, "MemAvailable": 10_240}


def test_an_endpoint_is_a_url_for_both_ip_versions() -> None:
    assert Identity("a", "10.0.0.1", 7443).endpoint == "https://10.0.0.1:7443"
    assert Identity("a", "fd00::1", 7443).endpoint == "https://[fd00::1]:7443"


async def test_a_program_that_is_missing_has_no_version() -> None:
    assert await version_of("no-such-program") == ""


def test_the_kernel_answers_whether_it_scans_page_maps() -> None:
    assert has_pagemap_scan() in {True, False}
