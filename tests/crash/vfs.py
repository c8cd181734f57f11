"""A layer between SQLite and the file system, made of Python: it records what is written, or fails.

Owns the registration with the very SQLite library that `sqlite3` uses, for this process alone, so
that the product's own code runs above it unchanged. Everything is handed on to the layer of the
operating system; what a hook returns instead of None is SQLite's answer without that.
"""

from __future__ import annotations

import _sqlite3
import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int64, c_void_p
from typing import Any, TypeAlias

Hook: TypeAlias = Callable[[str, str, int, bytes], "int | None"]
"""(call, path, offset or length, data) -> an SQLite result code, or None to go on."""

SHM_LOCK = 2
"""The flag by which a lock differs from letting go of one."""

_CLOSE = CFUNCTYPE(c_int, c_void_p)
_DATA = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
_SYNC = CFUNCTYPE(c_int, c_void_p, c_int)
_SHM_LOCK = CFUNCTYPE(c_int, c_void_p, c_int, c_int, c_int)
_OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_DELETE = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
_REST = c_void_p


class _Methods(ctypes.Structure):
    """sqlite3_io_methods, version 3."""

    _fields_ = (
        ("version", c_int),
        ("close", _CLOSE),
        ("read", _DATA),
        ("write", _DATA),
        ("truncate", _TRUNCATE),
        ("sync", _SYNC),
        *((name, _REST) for name in ("file_size", "lock", "unlock", "check_reserved_lock")),
        *((name, _REST) for name in ("file_control", "sector_size", "device_characteristics")),
        ("shm_map", _REST),
        ("shm_lock", _SHM_LOCK),
        *((name, _REST) for name in ("shm_barrier", "shm_unmap", "fetch", "unfetch")),
    )


class _File(ctypes.Structure):
    """sqlite3_file."""

    _fields_ = (("methods", POINTER(_Methods)),)


class _Vfs(ctypes.Structure):
    """sqlite3_vfs, version 3."""

    _fields_ = (
        ("version", c_int),
        ("file_bytes", c_int),
        ("path_max", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("data", c_void_p),
        ("open", _OPEN),
        ("delete", _DELETE),
        *((name, _REST) for name in ("access", "full_pathname", "dl_open", "dl_error", "dl_sym")),
        *((name, _REST) for name in ("dl_close", "randomness", "sleep", "current_time")),
        *((name, _REST) for name in ("last_error", "current_time_int64", "set_system_call")),
        *((name, _REST) for name in ("get_system_call", "next_system_call")),
    )


class Layer:
    """The registered layer. `hook` is called for every call that could lose or refuse data."""

    def __init__(self, hook: Hook) -> None:
        self._library = ctypes.CDLL(_sqlite3.__file__)  # finds what the module itself is linked to
        self._library.sqlite3_vfs_find.restype = POINTER(_Vfs)
        self._library.sqlite3_vfs_find.argtypes = (c_char_p,)
        self._library.sqlite3_vfs_register.argtypes = (POINTER(_Vfs), c_int)
        self._library.sqlite3_vfs_unregister.argtypes = (POINTER(_Vfs),)
        self._below = self._library.sqlite3_vfs_find(None)
        self._hook = hook
        self._paths: dict[int, str] = {}  # address of an open file -> its path
        self._methods: dict[int, tuple[_Methods, _Methods]] = {}  # of the layer below -> both
        self._vfs = _Vfs.from_buffer_copy(self._below.contents)
        self._vfs.name, self._vfs.next = b"watched", None
        self._vfs.open = _OPEN(self._open)
        self._vfs.delete = _DELETE(self._delete)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Every connection opened within the block goes through the layer."""
        assert self._library.sqlite3_vfs_register(ctypes.byref(self._vfs), 1) == 0
        try:
            yield
        finally:
            self._library.sqlite3_vfs_unregister(ctypes.byref(self._vfs))

    def _open(self, _: int, name: int | None, file: int, flags: int, out: int) -> int:
        # The name is SQLite's own and is used as long as the file is open: a copy would be gone.
        path = "" if name is None else ctypes.string_at(name).decode()
        refusal = self._hook("open", path, 0, b"")
        if refusal is not None:
            _File.from_address(file).methods = POINTER(_Methods)()
            return refusal
        below = ctypes.cast(self._below, c_void_p)
        result: int = self._below.contents.open(below, name, file, flags, out)
        opened = _File.from_address(file)
        if result == 0 and opened.methods:
            self._paths[file] = path
            opened.methods = ctypes.pointer(self._watched(opened.methods))
        return result

    def _delete(self, _: int, name: bytes, is_synced: int) -> int:
        refusal = self._hook("delete", name.decode(), is_synced, b"")
        if refusal is not None:
            return refusal
        below = ctypes.cast(self._below, c_void_p)
        return int(self._below.contents.delete(below, name, is_synced))

    def _watched(self, below: Any) -> _Methods:
        """The methods of a file, with those in between that matter here."""
        address = ctypes.addressof(below.contents)
        if address not in self._methods:
            original = _Methods.from_buffer_copy(below.contents)
            methods = _Methods.from_buffer_copy(below.contents)
            paths, hook = self._paths, self._hook

            def close(file: int) -> int:
                paths.pop(file, None)
                return int(original.close(file))

            def write(file: int, data: int, length: int, offset: int) -> int:
                content = ctypes.string_at(data, length)
                refusal = hook("write", paths[file], offset, content)
                return (
                    int(original.write(file, data, length, offset)) if refusal is None else refusal
                )

            def truncate(file: int, length: int) -> int:
                refusal = hook("truncate", paths[file], length, b"")
                return int(original.truncate(file, length)) if refusal is None else refusal

            def sync(file: int, flags: int) -> int:
                refusal = hook("sync", paths[file], flags, b"")
                return int(original.sync(file, flags)) if refusal is None else refusal

            def shm_lock(file: int, offset: int, count: int, flags: int) -> int:
                call = "lock" if flags & SHM_LOCK else "unlock"
                refusal = hook(call, paths[file], flags, b"")
                return (
                    int(original.shm_lock(file, offset, count, flags))
                    if refusal is None
                    else refusal
                )

            methods.close = _CLOSE(close)
            methods.write = _DATA(write)
            methods.truncate = _TRUNCATE(truncate)
            methods.sync = _SYNC(sync)
            if methods.version >= 2:
                methods.shm_lock = _SHM_LOCK(shm_lock)
            self._methods[address] = original, methods
        return self._methods[address][1]
