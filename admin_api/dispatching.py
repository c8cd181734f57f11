"""The dispatcher, wired: who is let in, what is limited, and the methods behind it."""

from __future__ import annotations

from dataclasses import dataclass

from admin_api.auth import Authenticator, Passwords
from admin_api.author_auth import Authors
from admin_api.clients import BrowserGuard, ClientAddresses
from admin_api.handlers import all_handlers
from admin_api.handlers.authors import author_methods
from admin_api.limits import FailureLimit, RequestLimit
from admin_api.ports import AdminPorts
from admin_api.service_auth import ServiceTokens
from admin_api.xrpc import Dispatcher, OnFault
from indexer.clock import Clock
from indexer.metrics import Metrics
from indexer.protocol.lexicon import LexiconCatalog


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminSettings:
    """What the admin listener needs of the settings."""

    bind: str
    port: int
    hosts: tuple[str, ...]
    trusted_proxies: tuple[str, ...]
    passwords: tuple[str, ...]
    dids: tuple[str, ...]  # admins; needs `service_did`
    service_did: str | None  # our own DID
    requests_per_s: float  # of one client
    serves_authors: bool = False  # needs `service_did`


async def open_dispatcher(
    settings: AdminSettings,
    ports: AdminPorts,
    addresses: ClientAddresses,
    *,
    own_host: str | None,  # under which our DID is served
    catalog: LexiconCatalog,
    clock: Clock,
    metrics: Metrics,
    on_fault: OnFault,
) -> Dispatcher:
    """Everything under /xrpc/; methods for authors only where the settings want them."""
    auth = Authenticator(
        Passwords(settings.passwords),
        await _tokens(settings, ports, clock=clock),
        own_did=settings.service_did,
        addresses=addresses,
        failures=FailureLimit(clock=clock),
        metrics=metrics,
    )
    authors: Authors | None = None
    if settings.serves_authors and settings.service_did is not None:
        authors = Authors(
            auth,
            ports.authors.index,
            ports.documents,
            own_did=settings.service_did,
            addresses=addresses,
            metrics=metrics,
            clock=clock,
        )
    return Dispatcher(
        all_handlers(ports, clock=clock),
        catalog=catalog,
        auth=auth,
        authors=authors,
        author_methods={} if authors is None else author_methods(ports.authors, clock=clock),
        guard=BrowserGuard(
            settings.bind, [*settings.hosts, *([] if own_host is None else [own_host])]
        ),
        addresses=addresses,
        limit=RequestLimit(settings.requests_per_s, clock=clock),
        audit=ports.audit,
        metrics=metrics,
        on_fault=on_fault,
    )


async def _tokens(
    settings: AdminSettings, ports: AdminPorts, *, clock: Clock
) -> ServiceTokens | None:
    """None: no admin is known by a DID."""
    if settings.service_did is None or not settings.dids:
        return None
    return ServiceTokens(
        settings.dids,
        own_did=settings.service_did,
        documents=ports.documents,
        accepted=ports.tokens,
        horizon=await ports.tokens.load(),
        clock=clock,
    )
