"""Calls to a running daemon over its admin XRPC, one after the other.

Owns the connection, its limits and the sentences for everything that can go wrong: each says what
to do next. Follows no redirect and asks no proxy, because every request carries the password.
"""

from __future__ import annotations

import base64
import http.client
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import urlencode, urlsplit

import click
import msgspec

from indexer.cli.wording import printable

USER = "admin"
CALL_S = 15.0
"""Longest silence of the daemon within one call."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminClient:
    """A daemon's admin listener and the password for it. Raises `AdminError` from every call."""

    url: str  # without a trailing slash
    password: str

    def query(self, nsid: str, params: Mapping[str, str], *, remedy: str = "") -> bytes:
        """The JSON answer to a query. `remedy` follows a refusal: what to do about it."""
        path = f"/xrpc/{nsid}" + (f"?{urlencode(params)}" if params else "")
        return self._answer("GET", path, None, remedy)

    def call(self, nsid: str, body: Mapping[str, str | int], *, remedy: str = "") -> bytes:
        """The JSON answer to a procedure. `remedy` as for a query."""
        return self._answer("POST", f"/xrpc/{nsid}", msgspec.json.encode(body), remedy)

    def readiness(self) -> bytes | None:
        """What /readyz says, ready or not; None where it is not served."""
        status, body = self._exchange("GET", "/readyz", None)
        return body if status in {HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE} else None

    def read(self, answer: bytes, kind: type[Answer]) -> Answer:
        """The answer as what it must be."""
        try:
            return msgspec.json.decode(answer, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Foreign(self.url, f"its answer is not as expected: {error}") from error

    def _answer(self, method: str, path: str, body: bytes | None, remedy: str) -> bytes:
        status, answer = self._exchange(method, path, body)
        if status == HTTPStatus.OK:
            return answer
        raise self._refused(status, answer, remedy)

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        parts = urlsplit(self.url)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        connection = kind(parts.hostname or "", parts.port, timeout=CALL_S)
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
                f"the daemon at {self.url} did not answer within {CALL_S:g} s: its log says why"
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
        return response.status, answer

    def _refused(self, status: int, answer: bytes, remedy: str) -> AdminError:
        try:
            refusal = msgspec.json.decode(answer, type=_Refusal)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Foreign(self.url, f"it answered with status {status}")
        said = f"the daemon at {self.url} says: {refusal.message or refusal.error}"
        match status:
            case HTTPStatus.UNAUTHORIZED:
                return WrongPassword(
                    f"{said}; name the daemon's own admin.password_file with --password-file"
                )
            case HTTPStatus.NOT_IMPLEMENTED:
                return NotServed(said)
            case HTTPStatus.NOT_FOUND:
                return Foreign(self.url, refusal.message or refusal.error)
            case HTTPStatus.TOO_MANY_REQUESTS | HTTPStatus.SERVICE_UNAVAILABLE:
                return AdminBusy(f"{said}; try again later")
        return Refused(f"{said}; {remedy}" if remedy else said)
