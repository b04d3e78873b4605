"""The facts of this node: programs, kernel, CPU, capacity, and the self-test of a migration.

Most facts are gathered once, at the start. Free memory and disk are read anew for every report.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from loguru import logger

from transship import __version__
from transship.agentapi.node import Leftover, NodeReport, QuarantinedRecord
from transship.api.node_agent import Capacity, Features, SelfTest, Versions
from transship.common.errors import TransshipError
from transship.common.processes import run
from transship.criu import worker as criu
from transship.criu.selftest import run_selftest
from transship.linux import cgroups, mounts

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PID_LIMITS = (Path("/proc/sys/kernel/pid_max"), Path("/proc/sys/kernel/threads-max"))
PROBE_TIMEOUT_SECONDS = 10.0
SELF_TEST_AGAIN_SECONDS = 300.0

# include/uapi/linux/fs.h: _IOWR('f', 16, struct pm_scan_arg), 12 words of 64 bits (Linux 6.7)
PAGEMAP_SCAN = 0xC0606610
PM_SCAN_ARGUMENT = struct.Struct("=12Q")


@dataclass(frozen=True)
class Identity:
    """The node of this agent, and where the agent listens."""

    node: str
    address: str
    port: int

    @property
    def endpoint(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"https://{host}:{self.port}"


class NodeFacts:
    """All facts; `gather` fills in those that take time."""

    def __init__(
        self,
        identity: Identity,
        *,
        addresses: Callable[[], tuple[str, ...]],
        state_dir: Path,
        containers: Callable[[], int],
    ) -> None:
        self.identity = identity
        self.boot_id = read_boot_id()
        self.versions = Versions(agent=__version__, kernel=os.uname().release)
        self.features = Features(machine=os.uname().machine)
        self.self_test: SelfTest | None = None
        self.leftovers: Callable[[], tuple[Leftover, ...]] = tuple
        self.quarantined: Callable[[], tuple[QuarantinedRecord, ...]] = tuple
        self.complete = False
        """Whether the gathering and the first self-test are over."""
        self._state_dir = state_dir
        self._containers = containers
        self._addresses = addresses

    @property
    def addresses(self) -> tuple[str, ...]:
        """The node's addresses in the containers' network, the agent's own first."""
        return tuple(dict.fromkeys([self.identity.address, *self._addresses()]))

    async def learn(self, directory: Path, *, changed: Callable[[], None]) -> None:
        """Gather, and repeat the self-test until it passes: a missing program may be installed.

        changed: called after every self-test.
        """
        passed = False
        while not passed:
            await self.gather()
            passed = await self.run_self_test(directory)
            self.complete = True
            changed()
            await asyncio.sleep(0 if passed else SELF_TEST_AGAIN_SECONDS)

    async def gather(self) -> None:
        """Ask the programs and the kernel. A missing program is a fact too, not an error."""
        runc, conmon = await version_of("runc"), await version_of("conmon")
        criu_facts = await _probe_criu()
        self.versions = self.versions.model_copy(
            update={
                "criu": "" if criu_facts is None else criu_facts.version_text,
                "runc": runc,
                "conmon": conmon,
            }
        )
        cpu = Path("/proc/cpuinfo").read_text()
        self.features = Features(
            cgroup="v2" if cgroups.detect().unified else "v1",
            soft_dirty=criu_facts is not None and criu_facts.memory_tracking,
            pagemap_scan=has_pagemap_scan(),
            userfaultfd=criu_facts is not None and criu_facts.lazy_pages,
            cpu_model=cpu_model(cpu),
            cpu_flags=cpu_flags(cpu),
            machine=os.uname().machine,
        )

    async def run_self_test(self, directory: Path) -> bool:
        """Dump and restore a small process in a new directory below this one, on a tmpfs."""
        for leftover in directory.glob("selftest-*"):  # of an agent that was killed in its test
            with suppress(TransshipError):
                await asyncio.to_thread(mounts.remove_tree, leftover)
        result = await run_selftest(directory)
        message = ". ".join(text for text in (result.message, result.hint) if text)
        self.self_test = SelfTest(
            passed=result.passed,
            time=datetime.now(UTC),
            milliseconds=round(result.seconds * 1000),
            message=message[:4096],
        )
        log = logger.bind(milliseconds=self.self_test.milliseconds)
        if result.passed:
            log.info("self-test passed")
        else:
            log.bind(reason=str(result.reason)).warning("self-test failed: {}", message)
        return result.passed

    def capacity(self) -> Capacity:
        memory = memory_bytes(Path("/proc/meminfo").read_text())
        disk = shutil.disk_usage(self._state_dir)
        return Capacity(
            cpu_millicores=1000 * len(os.sched_getaffinity(0)),
            memory_bytes=memory.get("MemTotal", 0),
            pids=min(int(path.read_text()) for path in PID_LIMITS),
            free_memory_bytes=memory.get("MemAvailable", 0),
            disk_bytes=disk.total,
            free_disk_bytes=disk.free,
            containers=self._containers(),
        )

    def report(self) -> NodeReport:
        return NodeReport(
            leftovers=self.leftovers(),
            quarantined=self.quarantined(),
        )


def read_boot_id() -> str:
    return BOOT_ID.read_text().strip()


async def _probe_criu() -> criu.CriuFacts | None:
    try:
        return await criu.probe()
    except (TransshipError, OSError) as e:
        logger.bind(cause=str(e)).warning("probing criu failed")
        return None


async def version_of(program: str) -> str:
    """The first version number that `PROGRAM --version` prints; empty without the program."""
    try:
        completed = await run([program, "--version"], timeout_seconds=PROBE_TIMEOUT_SECONDS)
    except (TransshipError, OSError):
        return ""
    version = re.search(r"\d+(\.\d+)+", completed.stdout)
    return version[0] if version else ""


def has_pagemap_scan() -> bool:
    """Scan no page: a kernel without PAGEMAP_SCAN refuses the request."""
    argument = bytearray(PM_SCAN_ARGUMENT.pack(PM_SCAN_ARGUMENT.size, *[0] * 11))
    try:
        with Path("/proc/self/pagemap").open("rb") as pagemap:
            fcntl.ioctl(pagemap.fileno(), PAGEMAP_SCAN, argument)
    except OSError:
        return False
    return True


def cpu_model(cpuinfo: str) -> str:
    line = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    return line[1].strip() if line else ""


def cpu_flags(cpuinfo: str) -> tuple[str, ...]:
    """The line is called flags on x86, Features on ARM."""
    line = re.search(r"^(?:flags|Features)\s*: (.*)$", cpuinfo, re.MULTILINE)
    return tuple(sorted(line[1].split())) if line else ()


def memory_bytes(meminfo: str) -> dict[str, int]:
    rows = re.findall(r"^(\w+):\s+(\d+) kB$", meminfo, re.MULTILINE)
    return {name: int(kibibytes) * 1024 for name, kibibytes in rows}
