"""Calls to a running daemon over its admin XRPC, one after the other.

Owns the connection, its limits and the sentences for everything that can go wrong: each says what
to do next. Follows no redirect and asks no proxy, because every request carries the password.
"""

from __future__ import annotations

import base64
import http.client
import os
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import urlencode, urlsplit

import click
import msgspec

from indexer.cli.wording import printable

USER = "admin"
QUERY_S = 15.0
"""Longest silence of the daemon when it is asked something."""

CHANGE_S = 600.0
"""The same when it changes something: that may be every repo of a host."""

PATIENCE_S = 5.0
"""After this long it is told that the daemon is still at it."""

ANSWER_BYTES_MAX = 16 * 1024 * 1024

Answer = TypeVar("Answer")


class AdminError(click.ClickException):
    """A call came to nothing; the message says what to do next."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class AdminUnreachable(AdminError):
    """No daemon answers, or it cannot just now: a later call may succeed."""

    exit_code = os.EX_UNAVAILABLE


class AdminBusy(AdminUnreachable):
    """A daemon answers that it cannot do this just now."""


class Refused(AdminError):
    """The daemon does not do what it is asked for."""

    exit_code = os.EX_DATAERR


class WrongPassword(AdminError):
    """The daemon does not accept the credential."""

    exit_code = os.EX_NOPERM


class Broken(AdminError):
    """A bug of the daemon."""

    exit_code = os.EX_SOFTWARE


class NotServed(AdminError):
    """This version of the daemon does not have the method or the operation type."""

    exit_code = os.EX_PROTOCOL


class Foreign(AdminError):
    """What answers is no daemon of ours, or one of another version."""

    exit_code = os.EX_PROTOCOL

    def __init__(self, url: str, why: str) -> None:
        super().__init__(
            f"what answers at {url} is no admin listener of this version: {why};"
            " --url must name the daemon's admin.port"
        )


class _Refusal(msgspec.Struct):
    """The XRPC error body."""

    error: str
    message: str = ""


def _tell(line: str) -> None:
    click.echo(line, err=True)


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to do about a refusal."""

    text: str
    field: str = ""  # the parameter or field of the input that it is about; empty: any

    def fits(self, message: str) -> bool:
        """Whether a refusal with this message is one that it helps against."""
        return not self.field or f" {self.field}: " in message


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminClient:
    """A daemon's admin listener and the password for it. Raises `AdminError` from every call."""

    url: str  # without a trailing slash
    password: str
    change_s: float = CHANGE_S
    patience_s: float = PATIENCE_S
    tell: Callable[[str], None] = _tell

    def query(self, nsid: str, params: Mapping[str, str], *, remedy: Remedy | None = None) -> bytes:
        """The JSON answer to a query. `remedy` follows a refusal of bad input."""
        path = f"/xrpc/{nsid}" + (f"?{urlencode(params)}" if params else "")
        return self._answer("GET", path, None, remedy)

    def call(
        self, nsid: str, body: Mapping[str, str | int], *, remedy: Remedy | None = None
    ) -> bytes:
        """The JSON answer to a procedure. `remedy` as for a query."""
        with self._patience():
            return self._answer("POST", f"/xrpc/{nsid}", msgspec.json.encode(body), remedy)

    def readiness(self) -> bytes | None:
        """What /readyz says, ready or not; None where it is not served."""
        status, body, _ = self._exchange("GET", "/readyz", None)
        return body if status in {HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE} else None

    def read(self, answer: bytes, kind: type[Answer]) -> Answer:
        """The answer as what it must be."""
        try:
            return msgspec.json.decode(answer, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Foreign(self.url, f"its answer is not as expected: {error}") from error

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """Say so when it takes long."""
        longest = f"{self.change_s / 60:.0f} min at most"
        told = threading.Timer(
            self.patience_s, self.tell, [f"the daemon at {self.url} is at it: waiting, {longest}"]
        )
        told.daemon = True
        told.start()
        try:
            yield
        finally:
            told.cancel()
            told.join()

    def _answer(self, method: str, path: str, body: bytes | None, remedy: Remedy | None) -> bytes:
        status, answer, is_challenged = self._exchange(method, path, body)
        if status == HTTPStatus.OK:
            return answer
        raise self._refused(status, answer, remedy, is_challenged=is_challenged)

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes, bool]:
        """Status, body, and whether another credential would be judged otherwise."""
        parts = urlsplit(self.url)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        silence_s = QUERY_S if body is None else self.change_s
        connection = kind(parts.hostname or "", parts.port, timeout=silence_s)
        token = base64.b64encode(f"{USER}:{self.password}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, parts.path + path, body, headers)
            response = connection.getresponse()
            answer = response.read(ANSWER_BYTES_MAX + 1)
        except TimeoutError as error:
            raise AdminUnreachable(
                f"the daemon at {self.url} did not answer within {silence_s:g} s: its log says why"
                + ("" if body is None else "; it may yet do what was asked")
            ) from error
        except ssl.SSLError as error:
            raise Foreign(self.url, f"TLS failed: {error}") from error
        except OSError as error:
            raise AdminUnreachable(
                f"no daemon answers at {self.url} ({error.strerror or error}): start it with"
                " `chive-indexer run`, or name another address with --url"
            ) from error
        except UnicodeError as error:
            raise AdminUnreachable(
                f"no daemon can be at {self.url}: no such name or path is possible; correct --url"
            ) from error
        except http.client.HTTPException as error:
            raise Foreign(self.url, f"it does not speak HTTP ({error!r})") from error
        finally:
            connection.close()
        if len(answer) > ANSWER_BYTES_MAX:
            raise Foreign(self.url, f"its answer is larger than {ANSWER_BYTES_MAX} bytes")
        return response.status, answer, "WWW-Authenticate" in response.headers

    def _refused(
        self, status: int, answer: bytes, remedy: Remedy | None, *, is_challenged: bool
    ) -> AdminError:
        try:
            refusal = msgspec.json.decode(answer, type=_Refusal)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Foreign(self.url, f"it answered with status {status}")
        said = f"the daemon at {self.url} says: {refusal.message or refusal.error}"
        if is_challenged or status == HTTPStatus.UNAUTHORIZED:
            return WrongPassword(
                f"{said}; name the daemon's own admin.password_file with --password-file"
            )
        match status:
            case HTTPStatus.INTERNAL_SERVER_ERROR:
                error: AdminError = Broken(f"{said}; report it with what the daemon's log has")
            case HTTPStatus.NOT_IMPLEMENTED:
                error = NotServed(said)
            case HTTPStatus.NOT_FOUND:
                error = Foreign(self.url, refusal.message or refusal.error)
            case HTTPStatus.TOO_MANY_REQUESTS | HTTPStatus.SERVICE_UNAVAILABLE:
                error = AdminBusy(f"{said}; try again later")
            case HTTPStatus.BAD_REQUEST if remedy is not None and remedy.fits(refusal.message):
                error = Refused(f"{said}; {remedy.text}")
            case _:
                error = Refused(said)
        return error
