"""`python -m tests.ops.sandbox STATE COMMAND...`: a command within the walls that the unit builds.

As far as they can be had without systemd as PID 1, and read from the unit itself: no capability,
no new privileges, a file system that is read-only but for the folder STATE, no writable code, and
the unit's system calls and address families by a filter of the kernel. Not here: the cgroup's
limits, SocketBind*, IPAddressDeny (they need systemd's own programs in the kernel), and the other
mounts that the unit hides (home, devices, /proc).
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

UNIT = Path(__file__).parents[2] / "systemd" / "chive-indexer.service"

ALLOW, FAIL = 0x7FFF0000, 0x00050000 | errno.EPERM
EQUAL = 4  # SCMP_CMP_EQ
UNKNOWN = -1  # __NR_SCMP_ERROR: a name of another architecture
SET_MDWE, REFUSE_EXEC_GAIN = 65, 1


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def enter(state: str, command: list[str]) -> None:
    """Become `command`, within the walls. Needs root."""
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro / && shift && exec "$@"'
    os.execvp(
        "unshare",
        [
            "unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", state,
            "setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs",
            sys.executable, "-m", __spec__.name, "--within", *command,
        ],
    )  # fmt: skip


def within(command: list[str]) -> None:
    """The last step: no writable code, no other system call; then the command."""
    calls, families = allowed_calls(), unit_values("RestrictAddressFamilies")[0].split()
    if ctypes.CDLL(None, use_errno=True).prctl(SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    library = ctypes.CDLL("libseccomp.so.2")  # systemd itself needs it
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(FAIL))
    for name in calls - {"socket"}:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number != UNKNOWN:
            # It refuses numbers that stand for calls of other architectures, which need no rule.
            library.seccomp_rule_add(context, ALLOW, number, 0)
    number = library.seccomp_syscall_resolve_name(b"socket")
    for family in families:
        only = _Comparison(0, EQUAL, getattr(socket, family), 0)
        if library.seccomp_rule_add_array(context, ALLOW, number, 1, ctypes.byref(only)):
            raise OSError(f"no rule for {family}")
    if library.seccomp_load(context):
        raise OSError("the filter of system calls was not loaded")
    os.execvp(command[0], command)


def unit_values(name: str) -> list[str]:
    """The values of a setting of the unit, in order."""
    lines = UNIT.read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


def allowed_calls() -> set[str]:
    """The unit's SystemCallFilter, its sets taken apart; @default is always allowed."""
    calls = expanded("@default")
    for value in unit_values("SystemCallFilter"):
        names = set().union(*(expanded(each) for each in value.removeprefix("~").split()))
        calls = calls - names if value.startswith("~") else calls | names
    return calls


def expanded(name: str) -> set[str]:
    """The system calls that a name of systemd's stands for."""
    if not name.startswith("@"):
        return {name}
    listed = subprocess.run(
        ["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True
    )
    lines = (line.strip() for line in listed.stdout.splitlines()[1:])
    return set().union(*(expanded(each) for each in lines if each and not each.startswith("#")))


if __name__ == "__main__":
    if sys.argv[1] == "--within":
        within(sys.argv[2:])
    enter(sys.argv[1], sys.argv[2:])
