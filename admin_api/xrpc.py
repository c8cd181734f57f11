"""XRPC dispatch: one request under /xrpc/ becomes one call of a method, driven by its lexicon.

Owns the order of the checks (path, browser, rate, method, credential, parameters, body) and the
answer to every failure: `{"error", "message"}` with a status that says whose fault it was. No
input gives a 500; what does is a bug of ours, logged with its traceback. A `LocalFault` is
answered and handed on, because the process has to end.

A procedure changes something, so it has a row in the audit log before it is carried out.

Source: https://atproto.com/specs/xrpc
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import parse_qsl

import msgspec
import structlog
from aiohttp import web

from admin_api.auth import Actor, Authenticator, LockedOut, Unauthenticated
from admin_api.author_auth import Authors
from admin_api.clients import BrowserGuard, ClientAddresses
from admin_api.json_body import BODY_BYTES_MAX, INTEGER_MAX, read_json
from admin_api.limits import Limited, RequestLimit
from admin_api.ports import AuditLog
from indexer.audit import AuditDraft
from indexer.errors import LocalBusy, LocalFault, RequestRefused
from indexer.metrics import OTHER, Metrics
from indexer.model import Json
from indexer.protocol.lexicon import LexiconCatalog, Method
from indexer.protocol.syntax import is_nsid

log = structlog.get_logger(__name__)

PREFIX = "/xrpc/"
BODY_S = 10.0
"""Longest time that a body may take to arrive."""

PARAMS_MAX = 100
MESSAGE_CHARS_MAX = 1000
RETRY_LATER_S = 5
DETAILS_CHARS_MAX = 4000
"""Longest input of a call that the audit log keeps."""

TARGETS = ("did", "uri", "pdsUrl", "subject", "url", "id", "index")
"""Input fields that say what a call is about, the most telling first."""

OK = "ok"
INTERNAL_ERROR = "InternalServerError"
BUSY_ERROR = "NotEnoughResources"
COUNTED_FROM_THE_START = ("200", "500")  # a rise from nothing is not seen by `rate`
HTTP_METHODS = {"query": ("GET", "HEAD"), "procedure": ("POST",)}

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request whose parameters and body satisfy the lexicon."""

    actor: Actor
    params: Mapping[str, Json]
    input: Mapping[str, Json]  # the body; empty for a query


Handler = Callable[[Call], Awaitable[Json]]
OnFault = Callable[[LocalFault], None]


@dataclass(frozen=True, slots=True)
class AuthorMethod:
    """A method for authors: what is checked before the author is proved, and the code behind it."""

    check: Callable[[str, Mapping[str, Json]], None]  # (DID as claimed, params or body)
    handler: Handler


class LexiconBroken(AssertionError):
    """A handler's answer contradicts its lexicon: a bug of ours."""


class Dispatcher:
    """Answers everything under /xrpc/. `handlers`: NSID -> the code behind it."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        catalog: LexiconCatalog,
        auth: Authenticator,
        authors: Authors | None,
        author_methods: Mapping[str, AuthorMethod],
        guard: BrowserGuard,
        addresses: ClientAddresses,
        limit: RequestLimit,
        audit: AuditLog,
        metrics: Metrics,
        on_fault: OnFault,
    ) -> None:
        methods = catalog.methods
        handlers = {**handlers, **{nsid: each.handler for nsid, each in author_methods.items()}}
        missing = sorted(handlers.keys() - methods.keys())
        if missing:
            raise LexiconBroken(f"handlers without a lexicon: {', '.join(missing)}")
        self._served = {nsid: (methods[nsid], handler) for nsid, handler in handlers.items()}
        self._catalog = catalog
        self._auth = auth
        self._authors = authors
        self._author_methods = author_methods
        self._guard = guard
        self._addresses = addresses
        self._limit = limit
        self._audit = audit
        self._metrics = metrics
        self._on_fault = on_fault
        for nsid in self._served:
            for code in COUNTED_FROM_THE_START:
                metrics.xrpc_requests.labels(nsid, code)

    async def answer(self, request: web.BaseRequest, path: str, query: str) -> web.Response:
        """The answer to a request whose raw path starts with `PREFIX`."""
        nsid = path.removeprefix(PREFIX)
        label = nsid if nsid in self._served else OTHER
        started = time.perf_counter()
        try:
            response = await self._call(request, nsid, query)
        except RequestRefused as error:
            response = refusal(error)
        except (LocalBusy, LocalFault) as error:
            response = unavailable(error, self._on_fault)
        except ConnectionError:
            raise  # nobody is left to answer
        except Exception:
            log.exception("admin.call_crashed", nsid=label)
            response = error_response(500, INTERNAL_ERROR, "a bug; the log has the details")
        self._metrics.xrpc_requests.labels(label, str(response.status)).inc()
        self._metrics.xrpc_request_duration_seconds.labels(label).observe(
            time.perf_counter() - started
        )
        return response

    async def _call(self, request: web.BaseRequest, nsid: str, query: str) -> web.Response:
        if not is_nsid(nsid):
            raise RequestRefused("InvalidRequest", "the path is not /xrpc/ and an NSID")
        self._guard.check(request)
        self._limit.take(self._addresses.client_of(request))
        served = self._served.get(nsid)
        if served is None:
            raise RequestRefused("MethodNotImplemented", f"{nsid} is not served here", status=501)
        method, handler = served
        if request.method not in (verbs := HTTP_METHODS[method.type]):
            raise RequestRefused("InvalidRequest", f"{nsid} is a {method.type}: use {verbs[0]}")
        of_author = self._author_methods.get(nsid)
        if of_author is not None and self._authors is not None:
            token = self._authors.read(request, nsid)
            params, body = await self._read_call(request, method, query)
            of_author.check(token.iss, params | body)
            actor = await self._authors.prove(request, token)
            answer = await handler(Call(actor=actor, params=params, input=body))
        else:
            actor = await self._auth.authenticate(request, nsid)
            params, body = await self._read_call(request, method, query)
            call = Call(actor=actor, params=params, input=body)
            is_change = method.type == "procedure"
            answer = await (self._change(nsid, handler, call) if is_change else handler(call))
        self._check_output(nsid, answer)
        return json_response(200, answer)

    async def _read_call(
        self, request: web.BaseRequest, method: Method, query: str
    ) -> tuple[dict[str, Json], dict[str, Json]]:
        """Parameters and body."""
        params = self._read_params(method.nsid, query)
        return params, await self._read_input(request, method)

    async def _change(self, nsid: str, handler: Handler, call: Call) -> Json:
        """Carry out a call between the two writes of its audit row.

        A call that is cut off leaves the row as it was begun.
        """
        log.info("admin.call_accepted", nsid=nsid, actor=call.actor.did)
        entry = await self._audit.begin(
            AuditDraft(
                actor=call.actor.did,
                action=nsid,
                target=_target(call.input),
                details=_details(call.input),
            )
        )
        outcome = INTERNAL_ERROR
        try:
            answer = await handler(call)
            outcome = OK
        except RequestRefused as error:
            outcome = error.name
            raise
        except (LocalBusy, LocalFault):
            outcome = BUSY_ERROR
            raise
        except asyncio.CancelledError:
            outcome = ""
            raise
        finally:
            if outcome:
                await self._end_entry(entry, outcome)
        return answer

    async def _end_entry(self, entry: int, outcome: str) -> None:
        try:
            await self._audit.end(entry, outcome)
        except LocalBusy as error:
            # What was done is done: the answer must say so.
            log.warning("admin.audit_unfinished", reason=str(error), entry=entry, outcome=outcome)

    def _read_params(self, nsid: str, query: str) -> dict[str, Json]:
        if not query.isascii() or _BAD_ESCAPE.search(query):
            raise RequestRefused("InvalidRequest", "the query string is not percent-encoded")
        try:
            pairs = parse_qsl(
                query, keep_blank_values=True, errors="strict", max_num_fields=PARAMS_MAX
            )
        except ValueError as exc:
            raise RequestRefused("InvalidRequest", f"the query string is invalid: {exc}") from exc
        params, problem = self._catalog.read_params(nsid, pairs)
        if problem is None:
            problem = next(
                (
                    f"{name}: is beyond 53 bits"
                    for name, value in params.items()
                    if isinstance(value, int) and abs(value) > INTEGER_MAX
                ),
                None,
            )
        if problem is not None:
            raise RequestRefused("InvalidRequest", f"parameter {problem}")
        return cast("dict[str, Json]", params)  # what the lexicon types of parameters allow

    async def _read_input(self, request: web.BaseRequest, method: Method) -> dict[str, Json]:
        if method.input_encoding is None:
            if request.body_exists:
                raise RequestRefused("InvalidRequest", f"{method.nsid} takes no body")
            return {}
        _check_encoding(request, method.input_encoding)
        value = read_json(await _read_body(request))
        problem = self._catalog.validate_input(method.nsid, value)
        if problem is not None:
            raise RequestRefused("InvalidRequest", f"input {problem}")
        if not isinstance(value, dict):
            raise RequestRefused("InvalidRequest", "the body must be an object")
        return value

    def _check_output(self, nsid: str, answer: Json) -> None:
        problem = self._catalog.validate_output(nsid, answer)
        if problem is not None:
            raise LexiconBroken(f"{nsid}: output {problem}")


def json_response(status: int, value: Json) -> web.Response:
    """A JSON answer that no cache keeps and no browser takes for something else."""
    return web.Response(
        status=status,
        body=msgspec.json.encode(value),
        content_type="application/json",
        headers={
            "Cache-Control": "no-store",
            "Server": "chive-indexer",
            "X-Content-Type-Options": "nosniff",
        },
    )


def error_response(status: int, name: str, message: str) -> web.Response:
    """The XRPC error body."""
    return json_response(status, {"error": name, "message": message[:MESSAGE_CHARS_MAX]})


def refusal(error: RequestRefused) -> web.Response:
    """The answer to a client's mistake, with the headers that its status calls for."""
    response = error_response(error.status, error.name, error.message)
    if isinstance(error, Unauthenticated | LockedOut):
        response.headers["WWW-Authenticate"] = 'Basic realm="admin", charset="UTF-8"'
    if error.status == web.HTTPTooManyRequests.status_code:
        wait_s = error.retry_after_s if isinstance(error, Limited) else RETRY_LATER_S
        response.headers["Retry-After"] = str(wait_s)
        response.headers["RateLimit-Remaining"] = "0"
        response.headers["RateLimit-Reset"] = str(wait_s)
    if error.status == web.HTTPServiceUnavailable.status_code:
        response.headers["Retry-After"] = str(RETRY_LATER_S)
    return response


def unavailable(error: LocalBusy | LocalFault, on_fault: OnFault) -> web.Response:
    """503 for trouble of our own; a fault is handed on so that the process ends."""
    if isinstance(error, LocalFault):
        on_fault(error)
    response = error_response(503, BUSY_ERROR, str(error))
    response.headers["Retry-After"] = str(RETRY_LATER_S)
    return response


def _target(body: Mapping[str, Json]) -> str | None:
    return next((str(body[name])[:1000] for name in TARGETS if name in body), None)


def _details(body: Mapping[str, Json]) -> str:
    """The input as JSON; of a long one only what is short in it."""
    text = msgspec.json.encode(body).decode()
    if len(text) <= DETAILS_CHARS_MAX:
        return text
    plain = {
        name: value if isinstance(value, bool | int | None) else str(value)[:100]
        for name, value in list(body.items())[:10]
        if len(name) <= 100  # noqa: PLR2004 - as for a value
    }
    return msgspec.json.encode(plain).decode()


def _check_encoding(request: web.BaseRequest, encoding: str) -> None:
    given = request.headers.getall("Content-Type", ())
    media_type, *parameters = given[0].lower().split(";") if len(given) == 1 else ("",)
    if media_type.strip() != encoding or [
        text for text in parameters if text.strip().replace('"', "") not in ("", "charset=utf-8")
    ]:
        raise RequestRefused(
            "UnsupportedMediaType", f"Content-Type must be {encoding} in UTF-8", status=415
        )
    if request.headers.getall("Content-Encoding", ()):
        raise RequestRefused(
            "UnsupportedMediaType", "a Content-Encoding is not accepted", status=415
        )
    codings = ",".join(request.headers.getall("Transfer-Encoding", ())).lower()
    if codings.strip() not in ("", "chunked"):
        raise RequestRefused(
            "MethodNotImplemented", "of transfer codings only chunked is known here", status=501
        )


async def _read_body(request: web.BaseRequest) -> bytes:
    """All bytes of the body, at most `BODY_BYTES_MAX`."""
    too_large = RequestRefused(
        "PayloadTooLarge", f"the body is larger than {BODY_BYTES_MAX} bytes", status=413
    )
    if (request.content_length or 0) > BODY_BYTES_MAX:
        raise too_large
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > BODY_BYTES_MAX:
                    raise too_large
    except TimeoutError as exc:
        raise RequestRefused(
            "InvalidRequest", f"the body did not arrive within {BODY_S:g} s"
        ) from exc
    except web.RequestPayloadError as exc:
        raise RequestRefused("InvalidRequest", "the body is not well-formed HTTP") from exc
    return bytes(body)
