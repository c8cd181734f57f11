"""Query parameters as the real PDS reads them, with its words when it refuses one."""

from __future__ import annotations

from aiohttp import web

from tests.devnet.serving import XrpcError


def nsid_of(request: web.Request) -> str:
    """Name of the method in the path."""
    return request.path.rpartition("/")[2]


def param(request: web.Request, name: str) -> str:
    """A required parameter."""
    value = request.query.get(name)
    if value is None:
        text = f'Invalid {nsid_of(request)} params: Missing required key "{name}"'
        raise XrpcError("InvalidRequest", text)
    return value


def did_param(request: web.Request) -> str:
    """The parameter `did`."""
    did = param(request, "did")
    if not did.startswith("did:"):
        text = f'Invalid {nsid_of(request)} params: Invalid DID (got "{did}")'
        raise XrpcError("InvalidRequest", text)
    return did


def limit_param(request: web.Request, default: int, most: int) -> int:
    """The parameter `limit`."""
    limit = int(request.query.get("limit", default))
    if not 1 <= limit <= most:
        text = f"Invalid {nsid_of(request)} params: integer too big (maximum {most}, got {limit})"
        raise XrpcError("InvalidRequest", text)
    return limit
