"""Runs a system call in another process, by ptrace, and leaves the process as it was.

The task is stopped for well under a millisecond. A system call that it was blocked in goes on
afterwards as the kernel itself would have it: the registers are put back in a stop from which the
kernel restarts or interrupts it. x86-64 only. Must not be used while CRIU traces the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from transship.common.errors import DeadlineExceeded, Refused
from transship.linux import mappings, processes
from transship.linux.pages import PAGE_BYTES

STOP_TIMEOUT_SECONDS = 0.2
"""A task that does not stop by then is frozen or waits for a disk; leaving it alone is harmless."""
START_TIMEOUT_SECONDS = 5.0
"""For thawed tasks to be scheduled; they are all but sure to take the trap then."""
_POLL_SECONDS = 0.0001

_CONT, _SINGLESTEP, _GETREGS, _SETREGS, _DETACH = 7, 9, 12, 13, 17
_SEIZE, _INTERRUPT, _GETSIGMASK, _SETSIGMASK = 0x4206, 0x4207, 0x420A, 0x420B
_SUSPEND_SECCOMP = 1 << 21
_EVENT_STOP = 128
_ALL_TASKS = 0x40000000  # __WALL
_SYSCALL_INSTRUCTION = b"\x0f\x05"
_CODE_64BIT = 0x33
_ALL_BUT_TRAP = ~(1 << (signal.SIGTRAP - 1)) & (1 << 64) - 1

_T = TypeVar("_T")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


class _Registers(ctypes.Structure):
    """struct user_regs_struct of x86-64."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8"),
            *("rax", "rcx", "rdx", "rsi", "rdi", "orig_rax", "rip", "cs", "eflags"),
            *("rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
        )
    )


class Tracee:
    """A stopped task that runs system calls for us."""

    def __init__(self, pid: int, *, instruction: int, saved: _Registers) -> None:
        self._pid = pid
        self._instruction = instruction
        self._saved = saved
        self.put_off = 0
        """A signal that cannot be blocked (SIGSTOP) and came in between: delivered at the end."""

    def syscall(self, number: int, *arguments: int) -> int:
        """Run one that takes up to three numbers. Raises OSError as the call would."""
        registers = _Registers.from_buffer_copy(self._saved)
        registers.rax = number
        registers.orig_rax = (1 << 64) - 1  # nothing to restart
        registers.rip = self._instruction
        for name, value in zip(("rdi", "rsi", "rdx"), arguments, strict=False):
            setattr(registers, name, value)
        _ptrace(_SETREGS, self._pid, data=ctypes.addressof(registers))
        self._step()
        _ptrace(_GETREGS, self._pid, data=ctypes.addressof(registers))
        result = ctypes.c_int64(registers.rax).value
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result

    def syscall_on(self, number: int, first: int, second: int, data: bytes) -> int:
        """The same for a call whose third argument is the address of some data to read."""
        place = _room_in_page(self._saved.rsp, len(data))
        memory = os.open(f"/proc/{self._pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        try:
            before = _read_arrived(memory, len(data), place)  # it is put back
            os.pwrite(memory, data, place)
            try:
                return self.syscall(number, first, second, place)
            finally:
                os.pwrite(memory, before, place)
        finally:
            os.close(memory)

    def _step(self) -> None:
        """No deadline: to leave it now would be to leave it with our registers."""
        while True:
            _ptrace(_SINGLESTEP, self._pid)
            stop = _wait(self._pid, deadline=None) >> 8
            if stop == signal.SIGTRAP:
                return
            if stop < _EVENT_STOP:
                self.put_off = stop


def _room_in_page(address: int, size: int) -> int:
    """Near an address, in its own page: of a stack that is arriving this one is surely there."""
    end = (address | (PAGE_BYTES - 1)) + 1
    return min(address & ~0xF, (end - size) & ~0xF)


def _read_arrived(memory: int, size: int, place: int) -> bytes:
    """Read a page that may still be given: a userfaultfd's missing page is an error (EIO) here."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        try:
            return os.pread(memory, size, place)
        except OSError as e:
            if e.errno != errno.EIO or time.monotonic() > deadline:
                raise
        time.sleep(_POLL_SECONDS)


def supported() -> bool:
    """Whether system calls can be injected on this machine."""
    return platform.machine() == "x86_64"


def in_process(pid: int, act: Callable[[Tracee], _T]) -> _T:
    """Stop the process's first task, let `act` use it, and let it go on.

    Raises Refused (cannot be traced), DeadlineExceeded, OSError.
    """

    def work() -> _T:
        with _stopped(pid) as tracee:
            return act(tracee)

    return _in_thread(work)


def _in_thread(act: Callable[[], _T]) -> _T:
    """A thread of its own is the tracer: its end lets go of the tasks whatever has happened."""
    results: list[_T] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            results.append(act())
        except Exception as e:
            errors.append(e)

    thread = threading.Thread(target=work, name="ptrace")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


@contextmanager
def _stopped(pid: int) -> Iterator[Tracee]:
    if not supported():
        raise Refused(f"tracing {pid}: not done on {platform.machine()}")
    if processes.stat(pid).state in processes.STOPPED_STATES + processes.ENDED_STATES:
        raise Refused(f"tracing {pid}: it is stopped or has ended")
    instruction = _syscall_instruction(pid)
    _seize(pid)
    _interrupt(pid)
    with _held_still(pid, instruction) as tracee:
        yield tracee


def _seize(pid: int) -> None:
    try:
        _ptrace(_SEIZE, pid, data=_SUSPEND_SECCOMP)
    except PermissionError:  # the option is not for a tracer that has seccomp itself
        if _has_seccomp(pid):  # its filter might kill it for our call
            raise
        _ptrace(_SEIZE, pid)


def _has_seccomp(pid: int) -> bool:
    return "\nSeccomp:\t0\n" not in Path(f"/proc/{pid}/status").read_text()


def _interrupt(pid: int) -> None:
    """Stop it in a trap of ours; signals on the way are delivered as if nobody looked."""
    _ptrace(_INTERRUPT, pid)
    _await_trap(pid, deadline=time.monotonic() + STOP_TIMEOUT_SECONDS)


def _await_trap(pid: int, *, deadline: float) -> None:
    while True:
        status = _wait(pid, deadline=deadline)
        event, stop = status >> 16, os.WSTOPSIG(status)
        if event == _EVENT_STOP and stop == signal.SIGTRAP:
            return
        if event == _EVENT_STOP:
            _ptrace(_DETACH, pid)
            raise Refused(f"tracing {pid}: it is stopped by signal {stop}")
        _ptrace(_CONT, pid, data=0 if event else stop)


@contextmanager
def _held_still(pid: int, instruction: int) -> Iterator[Tracee]:
    """The same as _as_it_was, and let it go in the end."""
    put_off = 0
    try:
        with _as_it_was(pid, instruction) as tracee:
            try:
                yield tracee
            finally:
                put_off = tracee.put_off
    finally:
        with contextlib.suppress(ProcessLookupError):  # killed meanwhile
            _ptrace(_DETACH, pid, data=put_off)


@contextmanager
def _as_it_was(pid: int, instruction: int) -> Iterator[Tracee]:
    """Keep signals away from a stopped task, and put registers and mask back in the end."""
    saved, mask = _Registers(), ctypes.c_uint64()
    _ptrace(_GETREGS, pid, data=ctypes.addressof(saved))
    _ptrace(_GETSIGMASK, pid, address=8, data=ctypes.addressof(mask))
    blocked = ctypes.c_uint64(_ALL_BUT_TRAP)
    tracee = Tracee(pid, instruction=instruction, saved=saved)
    try:
        if saved.cs != _CODE_64BIT:
            raise Refused(f"tracing {pid}: it is no 64-bit program")
        _ptrace(_SETSIGMASK, pid, address=8, data=ctypes.addressof(blocked))
        yield tracee
    finally:
        with contextlib.suppress(ProcessLookupError):  # killed meanwhile
            _ptrace(_SETREGS, pid, data=ctypes.addressof(saved))
            _ptrace(_SETSIGMASK, pid, address=8, data=ctypes.addressof(mask))


def start_after(
    tasks: Sequence[int], *, start: Callable[[], None], acts: Mapping[int, Callable[[Tracee], None]]
) -> None:
    """Let frozen tasks run (`start` thaws them all), but none before all of `acts` are done.

    `acts` are by task, each one of `tasks`. A task that is seized and interrupted while it is
    frozen takes that trap before its first instruction. Whatever fails, all of them run in the end.
    Raises what `start` or an act raises, DeadlineExceeded, OSError.
    """
    _in_thread(lambda: _start_after(tasks, start, acts))


def _start_after(
    tasks: Sequence[int], start: Callable[[], None], acts: Mapping[int, Callable[[Tracee], None]]
) -> None:
    put_off = dict.fromkeys(tasks, 0)
    try:
        for task in tasks:
            with contextlib.suppress(ProcessLookupError):  # killed meanwhile
                _seize(task)
                _ptrace(_INTERRUPT, task)
        start()
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        for task in tasks:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                _await_trap(task, deadline=deadline)
        for task, act in acts.items():
            with _as_it_was(task, _syscall_instruction(task)) as tracee:
                act(tracee)
                put_off[task] = tracee.put_off
    finally:
        for task, signal_number in put_off.items():
            with contextlib.suppress(OSError):  # ended, or never seized
                _ptrace(_DETACH, task, data=signal_number)


def _wait(pid: int, *, deadline: float | None) -> int:
    """Wait until it stops; the kernel offers no deadline for that."""
    while True:
        found, status = os.waitpid(pid, os.WNOHANG | _ALL_TASKS)
        if found and os.WIFSTOPPED(status):
            return status
        if found:
            raise ProcessLookupError(f"process {pid} has ended")
        if deadline is not None and time.monotonic() > deadline:
            raise DeadlineExceeded(f"tracing {pid}: it does not stop")
        time.sleep(_POLL_SECONDS)


def _syscall_instruction(pid: int) -> int:
    """Where the kernel's vDSO, mapped everywhere, has one."""
    for area in mappings.areas(Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape")):
        if area.name == "[vdso]":
            with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
                memory.seek(area.start)
                offset = memory.read(area.end - area.start).find(_SYSCALL_INSTRUCTION)
            if offset >= 0:
                return area.start + offset
    raise Refused(f"tracing {pid}: it has no vDSO")


def _ptrace(request: int, pid: int, *, address: int = 0, data: int = 0) -> None:
    if _libc.ptrace(request, pid, address, data) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
