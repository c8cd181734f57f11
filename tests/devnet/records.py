"""Seeded records that look like the real ones and satisfy their lexicons.

Owns one small generator per collection of `pub.chive.*` (and Bluesky posts as foreign traffic), and
a few blocks that no generator should make: values outside the data model. Everything comes from the
`Random` that is passed in, so a seed gives the same records every time.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from random import Random
from typing import TypeAlias

from tests.devnet.cbor import RAW, JsonValue, cid_of, cid_text, encode, head
from tests.devnet.vocabulary import TAGS, TOPICS, any_did, any_uri, name, past_time, text, title

Record: TypeAlias = dict[str, JsonValue]


def _node_uri(rng: Random) -> str:
    return f"at://{any_did(rng)}/pub.chive.graph.node/{_uuid(rng)}"


def _uuid(rng: Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _blob(rng: Random, mime_type: str, size: int) -> Record:
    cid = cid_text(cid_of(rng.randbytes(16), RAW))
    return {"$type": "blob", "ref": {"$link": cid}, "mimeType": mime_type, "size": size}


def _item(kind: str, **fields: JsonValue) -> Record:
    return {"$type": f"pub.chive.richtext.defs#{kind}Item", "type": kind, **fields}


def _rich_text(rng: Random, paragraphs: int) -> list[JsonValue]:
    items: list[JsonValue] = [_item("text", content=text(rng, 30)) for _ in range(paragraphs)]
    if rng.random() < 0.3:
        items.append(_item("nodeRef", uri=_node_uri(rng), label=rng.choice(TOPICS)))
    if rng.random() < 0.2:
        items.append(_item("latex", content="\\sum_{i=1}^{n} x_i^2", displayMode=True))
    if rng.random() < 0.2:
        items.append(_item("mention", did=any_did(rng)))
    return items


def _affiliation(rng: Random) -> Record:
    return {
        "name": f"University of {rng.choice(TOPICS)}",
        "children": [{"name": f"Department of {rng.choice(TOPICS)}"}],
    }


def _author(rng: Random, order: int, did: str | None) -> Record:
    author: Record = {"name": name(rng), "order": order, "affiliations": [_affiliation(rng)]}
    if did is not None:
        author["did"] = did
    if rng.random() < 0.5:
        author["orcid"] = f"0000-000{rng.randrange(10)}-{rng.randrange(10_000):04d}-1825"
    return author


def _semantic_version(rng: Random) -> Record:
    return {"major": rng.randint(1, 4), "minor": rng.randint(0, 9), "patch": rng.randint(0, 9)}


def _submission(rng: Random, did: str, _eprint: str) -> Record:
    abstract = _rich_text(rng, rng.randint(1, 4))
    others = [_author(rng, 2 + at, None) for at in range(rng.randrange(4))]
    record: Record = {
        "title": title(rng),
        "abstract": abstract,
        "abstractPlainText": text(rng, 60),
        "document": _blob(rng, "application/pdf", rng.randint(10_000, 9_000_000)),
        "documentFormatSlug": "pdf",
        "authors": [_author(rng, 1, did), *others],
        "submittedBy": did,
        "keywords": [*rng.sample(TOPICS, 3)],
        "fieldUris": [_node_uri(rng)],
        "version": _semantic_version(rng),
        "licenseSlug": rng.choice(["CC-BY-4.0", "CC0-1.0", "CC-BY-SA-4.0"]),
        "publicationStatusSlug": rng.choice(["preprint", "under_review", "published"]),
        "paperTypeSlug": "original-research",
        "schemaRevision": 3,
    }
    if rng.random() < 0.4:
        doi = f"10.{rng.randrange(1000, 9999)}/{rng.randrange(10**8)}"
        record["publishedVersion"] = {"doi": doi, "journal": "Journal of Devnets"}
        record["externalIds"] = {"arxivId": f"{rng.randrange(1000, 2512)}.{rng.randrange(99999)}"}
    return record


def _version(rng: Random, did: str, eprint: str) -> Record:
    return {"eprintUri": eprint, "versionNumber": rng.randint(2, 9), "changes": text(rng, 20)}


def _changelog(rng: Random, did: str, eprint: str) -> Record:
    items: list[JsonValue] = [{"description": text(rng, 12), "changeType": "changed"}]
    return {
        "eprintUri": eprint,
        "version": _semantic_version(rng),
        "summary": text(rng, 10),
        "sections": [{"category": "methodology", "items": items}],
    }


def _citation(rng: Random, did: str, eprint: str) -> Record:
    work: Record = {
        "title": title(rng),
        "doi": f"10.{rng.randrange(1000, 9999)}/{rng.randrange(10**8)}",
        "authors": [name(rng) for _ in range(rng.randint(1, 4))],
        "year": rng.randint(1960, 2026),
        "venue": "Proceedings of the Devnet",
    }
    if rng.random() < 0.3:
        work["chiveUri"] = any_uri(rng, "pub.chive.eprint.submission")
    return {"eprintUri": eprint, "citedWork": work, "citationType": "extends"}


def _related_work(rng: Random, did: str, eprint: str) -> Record:
    related = any_uri(rng, "pub.chive.eprint.submission")
    return {"eprintUri": eprint, "relatedUri": related, "relationType": "replicates"}


def _user_tag(rng: Random, did: str, eprint: str) -> Record:
    return {"eprintUri": eprint, "tag": rng.choice(TAGS)}


def _quote(rng: Random) -> Record:
    return {"type": "TextQuoteSelector", "exact": text(rng, 6), "prefix": "so ", "suffix": " and"}


def _span(rng: Random, namespace: str, eprint: str) -> Record:
    selector = {"$type": f"{namespace}#textQuoteSelector", **_quote(rng)}
    refined: Record = {"type": "TextPositionSelector", "start": 10, "end": 40, "pageNumber": 3}
    return {"versionUri": eprint, "selector": selector, "refinedBy": refined}


def _review(rng: Random, did: str, eprint: str) -> Record:
    body = _rich_text(rng, rng.randint(1, 2))
    return {"eprintUri": eprint, "body": body, "motivationFallback": "commenting"}


def _endorsement(rng: Random, did: str, eprint: str) -> Record:
    kinds: list[JsonValue] = [*rng.sample(["methodological", "empirical", "data", "synthesis"], 2)]
    return {"eprintUri": eprint, "contributions": kinds, "comment": text(rng, 15)}


def _entity(rng: Random, namespace: str) -> Record:
    return {
        "$type": f"{namespace}#externalIdLink",
        "type": "externalId",
        "system": "wikidata",
        "identifier": f"Q{rng.randrange(10**7)}",
        "label": rng.choice(TOPICS),
    }


def _review_link(rng: Random, did: str, eprint: str) -> Record:
    position: Record = {"type": "TextPositionSelector", "start": 5, "end": 25, "pageNumber": 2}
    target: Record = {"source": eprint, "selector": _quote(rng), "refinedBy": position}
    return {
        "eprintUri": eprint,
        "target": target,
        "linkedEntity": _entity(rng, "pub.chive.review.entityLink"),
        "confidence": rng.randint(0, 1000),
    }


def _annotation(rng: Random, did: str, eprint: str) -> Record:
    return {
        "eprintUri": eprint,
        "body": _rich_text(rng, 1),
        "target": _span(rng, "pub.chive.annotation.comment", eprint),
        "motivationFallback": "questioning",
    }


def _annotation_link(rng: Random, did: str, eprint: str) -> Record:
    position: Record = {"type": "TextPositionSelector", "start": 5, "end": 25, "pageNumber": 0}
    target: Record = {"source": eprint, "selector": _quote(rng), "refinedBy": position}
    return {
        "eprintUri": eprint,
        "target": target,
        "linkedEntity": _entity(rng, "pub.chive.annotation.entityLink"),
        "confidence": rng.randint(0, 1000),
    }


def _node(rng: Random, did: str, _eprint: str) -> Record:
    label = rng.choice(TOPICS)
    return {
        "id": _uuid(rng),
        "slug": f"node-{rng.randrange(10**6)}",
        "kind": "object",
        "subkind": rng.choice(["field", "collection", "institution"]),
        "label": label,
        "alternateLabels": [label.upper()],
        "description": text(rng, 15),
        "status": rng.choice(["proposed", "established"]),
        "createdBy": did,
    }


def _edge(rng: Random, did: str, _eprint: str) -> Record:
    return {
        "id": _uuid(rng),
        "sourceUri": _node_uri(rng),
        "targetUri": _node_uri(rng),
        "relationSlug": rng.choice(["broader", "related", "contains"]),
        "weight": rng.randint(0, 1000),
        "status": "established",
        "createdBy": did,
    }


def _node_proposal(rng: Random, did: str, _eprint: str) -> Record:
    return {
        "proposalType": "create",
        "kind": "type",
        "proposedNode": {"label": rng.choice(TOPICS), "description": text(rng, 10)},
        "rationale": text(rng, 25),
        "evidence": [{"type": "usage", "uri": "https://example.org/e", "description": "seen"}],
    }


def _edge_proposal(rng: Random, did: str, _eprint: str) -> Record:
    proposed: Record = {
        "sourceUri": _node_uri(rng),
        "targetUri": _node_uri(rng),
        "relationSlug": "broader",
    }
    return {"proposalType": "create", "proposedEdge": proposed, "rationale": text(rng, 20)}


def _vote(rng: Random, did: str, _eprint: str) -> Record:
    proposal = any_uri(rng, "pub.chive.graph.nodeProposal")
    return {"proposalUri": proposal, "vote": rng.choice(["approve", "reject"])}


def _reconciliation(rng: Random, did: str, _eprint: str) -> Record:
    return {
        "sourceUri": _node_uri(rng),
        "targetSystem": "wikidata",
        "targetId": f"Q{rng.randrange(10**7)}",
        "confidence": rng.randint(0, 1000),
        "matchType": "close",
        "status": "proposed",
    }


def _profile(rng: Random, did: str, _eprint: str) -> Record:
    return {
        "displayName": name(rng),
        "bio": text(rng, 20),
        "avatar": _blob(rng, "image/png", rng.randint(1000, 900_000)),
        "affiliations": [_affiliation(rng)],
        "researchKeywords": [{"label": rng.choice(TOPICS)}],
        "schemaRevision": 2,
    }


def _mute(rng: Random, did: str, _eprint: str) -> Record:
    return {"subjectDid": any_did(rng)}


def _strong_ref(rng: Random, uri: str) -> Record:
    return {"uri": uri, "cid": cid_text(cid_of(rng.randbytes(16)))}


def _invite(rng: Random, did: str, _eprint: str) -> Record:
    subject = _strong_ref(rng, _node_uri(rng))
    return {"subject": subject, "invitee": any_did(rng), "role": "editor", "message": text(rng, 8)}


def _acceptance(rng: Random, did: str, _eprint: str) -> Record:
    invite = _strong_ref(rng, any_uri(rng, "pub.chive.collaboration.invite"))
    return {"invite": invite, "subject": _strong_ref(rng, _node_uri(rng))}


def _settings(rng: Random, did: str, _eprint: str) -> Record:
    return {
        "enablePersonalization": rng.random() < 0.5,
        "citationNetworkDisplay": "preview",
        "minimumEndorsementThreshold": rng.randint(0, 10),
        "relatedPapersThresholds": {"minScore": 5, "maxResults": rng.randint(1, 50)},
    }


def _post(rng: Random, did: str, _eprint: str) -> Record:
    return {"text": text(rng, 20), "langs": ["en"]}


_GENERATORS: dict[str, Callable[[Random, str, str], Record]] = {
    "pub.chive.eprint.submission": _submission,
    "pub.chive.eprint.version": _version,
    "pub.chive.eprint.changelog": _changelog,
    "pub.chive.eprint.citation": _citation,
    "pub.chive.eprint.relatedWork": _related_work,
    "pub.chive.eprint.userTag": _user_tag,
    "pub.chive.review.comment": _review,
    "pub.chive.review.endorsement": _endorsement,
    "pub.chive.review.entityLink": _review_link,
    "pub.chive.annotation.comment": _annotation,
    "pub.chive.annotation.entityLink": _annotation_link,
    "pub.chive.graph.node": _node,
    "pub.chive.graph.edge": _edge,
    "pub.chive.graph.nodeProposal": _node_proposal,
    "pub.chive.graph.edgeProposal": _edge_proposal,
    "pub.chive.graph.vote": _vote,
    "pub.chive.graph.reconciliation": _reconciliation,
    "pub.chive.actor.profile": _profile,
    "pub.chive.actor.mute": _mute,
    "pub.chive.collaboration.invite": _invite,
    "pub.chive.collaboration.inviteAcceptance": _acceptance,
    "pub.chive.discovery.settings": _settings,
    "app.bsky.feed.post": _post,
}
_UNDATED = {"pub.chive.actor.profile", "pub.chive.discovery.settings"}  # lexicons without createdAt
SINGLETONS = frozenset(_UNDATED)
"""Collections with the one key `self`."""
FOREIGN = "app.bsky.feed.post"
COLLECTIONS = tuple(name for name in _GENERATORS if name not in SINGLETONS and name != FOREIGN)
"""In-scope collections that may hold many records."""


def realistic_record(
    rng: Random, collection: str, *, did: str | None = None, eprint_uri: str | None = None
) -> Record:
    """A valid record of `collection` by author `did`, about `eprint_uri` where it is about one."""
    eprint = eprint_uri or any_uri(rng, "pub.chive.eprint.submission")
    record: Record = {"$type": collection}
    record |= _GENERATORS[collection](rng, did or any_did(rng), eprint)
    if collection not in _UNDATED:
        record["createdAt"] = past_time(rng)
    return record


def record_key(collection: str, value: JsonValue) -> str | None:
    """The key that the lexicon demands: `self`, or a node's own id. None: any TID."""
    if collection in SINGLETONS:
        return "self"
    if collection in ("pub.chive.graph.node", "pub.chive.graph.edge") and isinstance(value, dict):
        own = value.get("id")
        return own if isinstance(own, str) else None
    return None


def unreadable_blocks(collection: str) -> dict[str, bytes]:
    """Record blocks that a careless host would accept and that the data model forbids, by name."""
    body = encode({"$type": collection, "values": None})  # the longer key comes last
    start = body[:-1]  # everything but the null at its end
    return {
        "float64": start + b"\xfb\x3f\xf8" + bytes(6),
        "float32": start + b"\xfa\x3f\xc0\x00\x00",
        "nan": start + b"\xfb\x7f\xf8" + bytes(6),
        "undefined": start + b"\xf7",
        "not minimal": start + b"\x18\x01",
        "indefinite": start + b"\x9f\xff",
        "unknown tag": start + b"\xc1\x00",
        "link without its prefix": start + b"\xd8\x2a\x43\x01\x71\x12",
        "bad UTF-8": start + b"\x62\xff\xfe",
        "integer above int64": start + head(0, 2**64 - 1),
        "trailing bytes": body + b"\x00",
        "cut short": body[:-3],
        "no $type": encode({"v": 1}),
        "another $type": encode({"$type": "app.bsky.feed.like"}),
        "not a map": encode(["$type", collection]),
        "duplicate key": b"\xa3" + body[1:] + encode("values") + b"\xf6",
        "too deep": start + b"\x81" * 2000 + b"\x80",
        "empty": b"",
    }
