"""did:web accounts: one tiny server per DID, since a DID of this method is a host name.

Owns the documents under `/.well-known/did.json`. A port in the DID is only legal for localhost,
which is what a devnet has.
"""

from __future__ import annotations

from aiohttp import web

from tests.devnet.cbor import JsonValue
from tests.devnet.faults import FaultSchedule
from tests.devnet.plc import Identity, did_document
from tests.devnet.serving import Reply, Server, XrpcError, json_reply


class WebDids:
    """All did:web identities of the devnet."""

    def __init__(self, faults: FaultSchedule) -> None:
        self.servers: list[Server] = []
        self.identities: dict[str, Identity] = {}
        self._faults = faults

    async def open(self) -> str:
        """A new DID, listening; it has no document until `publish`."""
        server = Server("didweb", self._faults, len(self.servers))
        await server.start()
        did = f"did:web:localhost%3A{server.port}"

        async def serve(_request: web.Request) -> Reply:
            document = self.document(did)
            if document is None:
                raise XrpcError("NotFound", "Not Found", 404)
            return json_reply(document)

        server.route("GET", "/.well-known/did.json", "didweb.document", serve)
        self.servers.append(server)
        return did

    def publish(self, identity: Identity) -> None:
        """Serve the document of `identity`."""
        self.identities[identity.did] = identity

    def document(self, did: str) -> JsonValue:
        """The document, or None."""
        identity = self.identities.get(did)
        return None if identity is None else did_document(identity)
