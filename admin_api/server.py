"""The two listeners: admin (XRPC, health, readiness, console) and metrics.

Owns which path leads where and who needs a credential: XRPC methods do, the answers that service
managers and scrapers poll do not, and tell nothing that a stranger could use. Because anybody may
ask for those, one client may ask for so many a second; `/livez` alone always answers, as it costs
no more than a refusal would.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from urllib.parse import unquote

from aiohttp import web

from admin_api.clients import ClientAddresses
from admin_api.console_files import ConsoleFiles
from admin_api.dispatching import AdminSettings, open_dispatcher
from admin_api.limits import Limited, RequestLimit
from admin_api.listener import listen
from admin_api.ports import AdminPorts
from admin_api.service_auth import SERVICE
from admin_api.xrpc import (
    BUSY_ERROR,
    PREFIX,
    OnFault,
    error_response,
    json_response,
    refusal,
    unavailable,
)
from indexer.clock import Clock
from indexer.errors import LocalBusy, LocalFault
from indexer.metrics import Metrics
from indexer.model import Json
from indexer.ports import Status
from indexer.protocol.lexicon import LexiconCatalog

__all__ = ["AdminSettings", "serve_admin", "serve_metrics"]

READ_METHODS = frozenset({"GET", "HEAD"})
LIVE_PATH = "/livez"
ALIVE: Json = {"status": "alive"}
HEALTH_PATH = "/xrpc/_health"
DID_DOCUMENT_PATH = "/.well-known/did.json"
DID_WEB = "did:web:"

OPEN_PER_S = 100.0
"""Requests a second without a credential that one client may make; twice as many after a rest."""

SCRAPES_PER_S = 20.0
"""The same of expositions, each of which is some milliseconds of work beside the stream."""


@asynccontextmanager
async def serve_admin(
    settings: AdminSettings,
    ports: AdminPorts,
    *,
    catalog: LexiconCatalog,
    clock: Clock,
    metrics: Metrics,
    on_fault: OnFault,
) -> AsyncIterator[int]:
    """Serve XRPC and health until the block ends; gives the bound port.

    Raises `LocalFault` where the address cannot be bound.
    """
    addresses = ClientAddresses(settings.trusted_proxies)
    own_host = _did_host(settings.service_did)
    dispatcher = await open_dispatcher(
        settings, ports, addresses, own_host=own_host, catalog=catalog, clock=clock,
        metrics=metrics, on_fault=on_fault,
    )  # fmt: skip
    document = None if own_host is None else _did_document(f"{settings.service_did}", own_host)
    status, console = ports.status, ConsoleFiles()
    limit = RequestLimit(OPEN_PER_S, clock=clock)

    async def answer(request: web.BaseRequest, path: str, query: str) -> web.Response:
        if path.startswith(PREFIX) and path != HEALTH_PATH:
            return await dispatcher.answer(request, path, query)
        if path == LIVE_PATH:
            return _read_only(request) or json_response(200, ALIVE)
        try:
            limit.take(addresses.client_of(request))
        except Limited as error:
            return refusal(error)
        return await open_answer(request, path)

    async def open_answer(request: web.BaseRequest, path: str) -> web.Response:
        if path == HEALTH_PATH:
            return _read_only(request) or await _health(status, on_fault)
        if path == DID_DOCUMENT_PATH and document is not None:
            return _read_only(request) or json_response(200, document)
        if path == "/readyz":
            return _read_only(request) or await _readiness(status, ports.notes(), on_fault)
        if (page := console.response(path)) is not None:
            return _read_only(request) or page
        return error_response(404, "NotFound", "nothing is served under this path")

    async with listen(
        "admin", settings.bind, settings.port, answer, client_at=addresses.client_at
    ) as port:
        yield port


def _did_host(did: str | None) -> str | None:
    """Host and port that a did:web without a path stands for; None for another DID."""
    host = did.removeprefix(DID_WEB) if did is not None and did.startswith(DID_WEB) else ""
    return unquote(host) if host and ":" not in host else None


def _did_document(did: str, host: str) -> Json:
    """Who we are, for hosts that pass on a user's call or check an audience. We sign nothing."""
    scheme = "http" if host.partition(":")[0] == "localhost" else "https"
    return {
        "@context": ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/multikey/v1"],
        "id": did,
        "service": [
            {"id": SERVICE, "type": "ChiveIndexer", "serviceEndpoint": f"{scheme}://{host}"}
        ],
    }


@asynccontextmanager
async def serve_metrics(
    bind: str, port: int, *, clock: Clock, metrics: Metrics, on_fault: OnFault
) -> AsyncIterator[int]:
    """Serve /metrics until the block ends; gives the bound port.

    Raises `LocalFault` where the address cannot be bound.
    """
    addresses, limit = ClientAddresses(()), RequestLimit(SCRAPES_PER_S, clock=clock)

    async def answer(request: web.BaseRequest, path: str, _: str) -> web.Response:
        if path == LIVE_PATH:
            return _read_only(request) or json_response(200, ALIVE)
        if path == "/metrics":
            try:
                limit.take(addresses.client_of(request))
            except Limited as error:
                return refusal(error)
            return _read_only(request) or await _exposition(request, metrics, on_fault)
        return error_response(404, "NotFound", "metrics are under /metrics")

    async with listen("metrics", bind, port, answer) as bound:
        yield bound


def _read_only(request: web.BaseRequest) -> web.Response | None:
    """The refusal of a request that is not a plain read; None for one that is.

    Under /xrpc/ that is a bad request, as for every method there.
    """
    if request.method in READ_METHODS:
        return None
    if request.path.startswith(PREFIX):
        return error_response(400, "InvalidRequest", "use GET")
    response = error_response(405, "InvalidRequest", "use GET")
    response.headers["Allow"] = "GET, HEAD"
    return response


async def _health(status: Status, on_fault: OnFault) -> web.Response:
    body: dict[str, Json] = {"version": version("chive-indexer")}
    try:
        await status.check_store()
    except (LocalBusy, LocalFault) as error:
        if isinstance(error, LocalFault):
            on_fault(error)
        return json_response(503, body | {"error": BUSY_ERROR, "message": str(error)})
    return json_response(200, body)


async def _readiness(status: Status, notes: Mapping[str, str], on_fault: OnFault) -> web.Response:
    """Every component with the reason why it is not ready, or null; 200 when all are."""
    try:
        components = dict(await status.readiness())
    except (LocalBusy, LocalFault) as error:
        return unavailable(error, on_fault)
    is_ready = not any(components.values())
    value: dict[str, Json] = {
        "ready": is_ready,
        "components": dict(components),
        "notes": dict(notes),
    }
    return json_response(200 if is_ready else 503, value)


async def _exposition(
    request: web.BaseRequest, metrics: Metrics, on_fault: OnFault
) -> web.Response:
    try:
        body, content_type = await metrics.expose(request.headers.get("Accept"))
    except (LocalBusy, LocalFault) as error:
        return unavailable(error, on_fault)
    return web.Response(
        body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"}
    )
