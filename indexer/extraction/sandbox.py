"""What a process that reads a stranger's document gives up before it does.

Two walls, both of the kernel and both one-way. Limits: memory, processor time, open files, no file
written, no core dumped. And a filter of system calls with a short list of what computing on memory
needs; everything else fails with EPERM: no file can be opened, no socket made, no program run, no
process started or touched. What is open already, the document and the pipe for the answer, is all
that is left. Where the filter cannot be had, which is anywhere but Linux on x86-64 and arm64,
nothing is read at all.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import sys
from contextlib import suppress

MEMORY_BYTES_MAX = 512 * 1024 * 1024
CPU_S_MAX = 20
FILES_MAX = 16
NICENESS = 10
"""Documents can wait: the live stream goes first."""

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_FILTER_MODE = 2

_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_CALL_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW = 0x7FFF0000
_FAIL = 0x00050000 | errno.EPERM
_KILL = 0x80000000

_X86_64, _ARM64 = 0xC000003E, 0xC00000B7
"""What the kernel calls the architectures (linux/audit.h)."""

_CALLS = {
    # name: (number on x86-64, number on arm64)
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "getpid": (39, 172),
    "exit": (60, 93),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "exit_group": (231, 94),
    "getrandom": (318, 278),
}
_TGKILL = (234, 131)
"""How abort() ends the process itself. It reaches every process of the user, so to no other."""
_COLUMNS = {"x86_64": (_X86_64, 0), "aarch64": (_ARM64, 1)}


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("operand", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("first", ctypes.POINTER(_Instruction)))


class NoSandbox(OSError):
    """The machine does not offer the walls."""


def limit_resources() -> None:
    """Bound this process for good: call it before anything of the document is touched."""
    for kind, bound in (
        (resource.RLIMIT_AS, MEMORY_BYTES_MAX),
        (resource.RLIMIT_CPU, CPU_S_MAX),
        (resource.RLIMIT_NOFILE, FILES_MAX),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (bound, bound))
    with suppress(PermissionError):  # a service manager may forbid it
        os.nice(NICENESS)


def forbid_calls() -> None:
    """From here on this process computes, reads what is open, answers, ends, and nothing else.

    Raises `NoSandbox` where that cannot be had.
    """
    column = _COLUMNS.get(platform.machine())
    if sys.platform != "linux" or column is None:
        raise NoSandbox(f"no filter of system calls on {sys.platform} {platform.machine()}")
    architecture, which = column
    numbers = [each[which] for each in _CALLS.values()]
    program = [
        (_LOAD_WORD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD_WORD, 0, 0, _CALL_AT),
        (_JUMP_IF_EQUAL, 0, 4, _TGKILL[which]),
        # The kernel takes process ids from the lower half, which both machines have first.
        (_LOAD_WORD, 0, 0, _FIRST_ARGUMENT_AT),
        (_JUMP_IF_EQUAL, 0, 1, os.getpid()),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FAIL),
        # Each comparison jumps over the rest of them and the refusal.
        *((_JUMP_IF_EQUAL, len(numbers) - at, 0, number) for at, number in enumerate(numbers)),
        (_RETURN, 0, 0, _FAIL),
        (_RETURN, 0, 0, _ALLOW),
    ]
    instructions = (_Instruction * len(program))(*(_Instruction(*each) for each in program))
    filter_ = _Program(len(program), instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    for request in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _FILTER_MODE, ctypes.byref(filter_), 0, 0),
    ):
        if libc.prctl(*request) != 0:
            raise NoSandbox(ctypes.get_errno(), f"prctl({request[0]}) was refused")
