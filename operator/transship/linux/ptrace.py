"""Runs system calls in another process by ptrace(2), and leaves the process as it was.

The task is stopped for less than a millisecond. A system call that it was blocked in is restarted
or interrupted by the kernel as usual: the registers are restored in a stop in which the kernel does
so. x86-64 only. A process has only one tracer at a time.
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
"""A task that does not stop in time is frozen or waits for a disk; it is left alone."""
START_TIMEOUT_SECONDS = 5.0
"""For thawed tasks to run, and to stop at once."""
_POLL_SECONDS = 0.0001

_CONT, _SINGLESTEP, _GETREGS, _SETREGS, _DETACH = 7, 9, 12, 13, 17
_SEIZE, _INTERRUPT, _GETSIGMASK, _SETSIGMASK = 0x4206, 0x4207, 0x420A, 0x420B
_SUSPEND_SECCOMP = 1 << 21
_EVENT_STOP = 128
_WALL = 0x40000000
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
        self.pending_signal = 0
        """A signal that cannot be blocked (SIGSTOP); it is delivered at the end."""

    def syscall(self, number: int, *arguments: int) -> int:
        """Run a system call with up to three numbers. Raises the call's OSError."""
        registers = _Registers.from_buffer_copy(self._saved)
        registers.rax = number
        # there is no system call to restart
        registers.orig_rax = (1 << 64) - 1
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
        """Run a system call whose third argument is the address of `data`."""
        place = _room_in_page(self._saved.rsp, len(data))
        memory = os.open(f"/proc/{self._pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        try:
            before = _read_arrived(memory, len(data), place)
            os.pwrite(memory, data, place)
            try:
                return self.syscall(number, first, second, place)
            finally:
                os.pwrite(memory, before, place)
        finally:
            os.close(memory)

    def _step(self) -> None:
        """Run one instruction. Without a deadline: the task has our registers."""
        while True:
            _ptrace(_SINGLESTEP, self._pid)
            stop = _wait(self._pid, deadline=None) >> 8
            if stop == signal.SIGTRAP:
                return
            if stop < _EVENT_STOP:
                self.pending_signal = stop


def _room_in_page(address: int, size: int) -> int:
    """Find room near an address, in its page: the page of a stack pointer is always present."""
    end = (address | (PAGE_BYTES - 1)) + 1
    return min(address & ~0xF, (end - size) & ~0xF)


def _read_arrived(memory: int, size: int, place: int) -> bytes:
    """Read a page; retry while it is missing in a userfaultfd's range, where reading gives EIO."""
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
    """Stop the main thread of a process, call `act` with it, and let it run again.

    Raises Refused (it cannot be traced), DeadlineExceeded or OSError.
    """

    def work() -> _T:
        with _stopped(pid) as tracee:
            return act(tracee)

    return _in_thread(work)


def _in_thread(act: Callable[[], _T]) -> _T:
    """Trace in a thread of its own: when it ends, the kernel detaches it from all tasks."""
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
    except PermissionError:
        # a tracer that has a seccomp filter itself may not use the option. Without it, a filter of
        # the task may kill it for our system call
        if _has_seccomp(pid):
            raise
        _ptrace(_SEIZE, pid)


def _has_seccomp(pid: int) -> bool:
    return "\nSeccomp:\t0\n" not in Path(f"/proc/{pid}/status").read_text()


def _interrupt(pid: int) -> None:
    """Stop a task by PTRACE_INTERRUPT; signals that come before are delivered."""
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
    """Do the same as _restoring, and detach at the end."""
    pending_signal = 0
    try:
        with _restoring(pid, instruction) as tracee:
            try:
                yield tracee
            finally:
                pending_signal = tracee.pending_signal
    finally:
        with contextlib.suppress(ProcessLookupError):
            _ptrace(_DETACH, pid, data=pending_signal)


@contextmanager
def _restoring(pid: int, instruction: int) -> Iterator[Tracee]:
    """Block the signals of a stopped task; restore its registers and signal mask at the end."""
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
        with contextlib.suppress(ProcessLookupError):
            _ptrace(_SETREGS, pid, data=ctypes.addressof(saved))
            _ptrace(_SETSIGMASK, pid, address=8, data=ctypes.addressof(mask))


def start_after(
    tasks: Sequence[int], *, start: Callable[[], None], acts: Mapping[int, Callable[[Tracee], None]]
) -> None:
    """Let frozen tasks run (`start` thaws them all), but none before all of `acts` are done.

    `acts` has an action for some of the tasks. A task that is seized and interrupted while it is
    frozen stops before its first instruction. All tasks run in the end, also after an error.
    Raises what `start` or an action raises, DeadlineExceeded or OSError.
    """
    _in_thread(lambda: _start_after(tasks, start, acts))


def _start_after(
    tasks: Sequence[int], start: Callable[[], None], acts: Mapping[int, Callable[[Tracee], None]]
) -> None:
    pending_signal = dict.fromkeys(tasks, 0)
    try:
        for task in tasks:
            with contextlib.suppress(ProcessLookupError):
                _seize(task)
                _ptrace(_INTERRUPT, task)
        start()
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        for task in tasks:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                _await_trap(task, deadline=deadline)
        for task, act in acts.items():
            with _restoring(task, _syscall_instruction(task)) as tracee:
                act(tracee)
                pending_signal[task] = tracee.pending_signal
    finally:
        for task, signal_number in pending_signal.items():
            with contextlib.suppress(OSError):
                _ptrace(_DETACH, task, data=signal_number)


def _wait(pid: int, *, deadline: float | None) -> int:
    """Wait until a task stops; waitpid(2) has no deadline, so it polls."""
    while True:
        waited, status = os.waitpid(pid, os.WNOHANG | _WALL)
        if waited and os.WIFSTOPPED(status):
            return status
        if waited:
            raise ProcessLookupError(f"process {pid} has ended")
        if deadline is not None and time.monotonic() > deadline:
            raise DeadlineExceeded(f"tracing {pid}: it does not stop")
        time.sleep(_POLL_SECONDS)


def _syscall_instruction(pid: int) -> int:
    """Find a syscall instruction in the vDSO, which every process has mapped."""
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
