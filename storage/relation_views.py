"""Views of what follows from several records: fields, collections, their edges, collaborations.

None of it is stored. It holds in whatever order records come and go, because every view looks at
what is there now. What somebody says of another's collection counts only with the owner's consent,
which is a live invitation that was accepted.
"""

from __future__ import annotations

from collections.abc import Iterator

from indexer.records.types.graph_node import ORDERED_MAX
from storage.citation_views import CITATION_VIEWS
from storage.generations import GENERATION, Generation

ANCESTORS_MAX = 64
"""Collections above another, which is as deep as they nest: what is deeper counts as a circle."""


def did_of(uri: str) -> str:
    """SQL for the authority of the AT-URI that the SQL expression `uri` gives."""
    return f"substr({uri}, 6, instr(substr({uri}, 6), '/') - 1)"


def path_of(uri: str) -> str:
    """SQL for what follows the authority: collection/rkey."""
    return f"substr({uri}, 6 + instr(substr({uri}, 6), '/'))"


_AUTHORED = """
    JOIN record ON record.id = {0}.record_id
    JOIN repo AS author ON author.id = record.repo_id AND author.account_status = 'active'"""
_THEN_AUTHORED = _AUTHORED.replace("    JOIN", "    CROSS JOIN")
"""The same for what is rare: SQLite would begin with all records that there are."""

_URI = "'at://' || author.did || '/' || record.path"

_INVITE = "pub.chive.collaboration.invite"
_ACCEPTANCE = "pub.chive.collaboration.inviteAcceptance"

_UNEXPIRED = """
(invite.expires_unix IS NULL OR invite.expires_unix > CAST(strftime('%s', 'now') AS INTEGER))"""

_INVITES = f"""
CREATE VIEW collaboration_states AS
SELECT invite.subject_uri, invite.invitee_did AS did, author.did AS inviter_did, invite.role,
       {_URI} AS invite_uri, invite.expires_at, invite.created_at,
       {_UNEXPIRED}
       AND (author.did = {did_of("invite.subject_uri")} OR EXISTS (
           SELECT 1 FROM repo AS paper
           JOIN record AS written ON written.repo_id = paper.id
               AND written.path = {path_of("invite.subject_uri")}
           JOIN eprint_submission{GENERATION} AS eprint ON eprint.record_id = written.id
           WHERE paper.did = {did_of("invite.subject_uri")} AND paper.account_status = 'active'
             AND eprint.is_paper_account = 1 AND eprint.submitted_by = author.did
       )) AS is_live,
       (SELECT min('at://' || accepter.did || '/' || accepted.path)
        FROM collaboration_invite_acceptance{GENERATION} AS acceptance
        CROSS JOIN record AS accepted ON accepted.id = acceptance.record_id
        CROSS JOIN repo AS accepter ON accepter.id = accepted.repo_id
            AND accepter.account_status = 'active'
        WHERE acceptance.invite_uri = {_URI} AND +acceptance.subject_uri = invite.subject_uri
          AND accepter.did = invite.invitee_did) AS acceptance_uri
FROM collaboration_invite{GENERATION} AS invite{_THEN_AUTHORED.format("invite")}
"""  # noqa: S608 - constants
"""Every invitation: whether it may be accepted now, by whom it is valid, and whether it was.

Only the account that holds the subject can invite, or who submitted it where it is a paper's own.
The plus keeps SQLite from reading all acceptances of the subject for each of its invitations.
"""

_COLLABORATIONS = f"""
CREATE VIEW collaborations AS
SELECT subject_uri, did, state, role, inviter_did, invite_uri, acceptance_uri, expires_at
FROM (
    SELECT *, row_number() OVER (
        PARTITION BY subject_uri, did ORDER BY precedence, created_at DESC, invite_uri) AS place
    FROM (
        SELECT subject_uri, did, role, inviter_did, invite_uri, acceptance_uri, expires_at,
               created_at,
               CASE WHEN NOT is_live THEN 'inactive'
                    WHEN acceptance_uri IS NULL THEN 'pending-acceptance'
                    ELSE 'active' END AS state,
               CASE WHEN NOT is_live THEN 3 WHEN acceptance_uri IS NULL THEN 1 ELSE 0
                    END AS precedence
        FROM collaboration_states
        UNION ALL
        SELECT acceptance.subject_uri, author.did, NULL, NULL, acceptance.invite_uri, {_URI}, NULL,
               acceptance.created_at, 'pending-invite', 2
        FROM collaboration_invite_acceptance{GENERATION} AS acceptance
        {_THEN_AUTHORED.format("acceptance")}
        WHERE NOT EXISTS (
            SELECT 1 FROM repo AS inviter
            CROSS JOIN record AS sent ON sent.repo_id = inviter.id
                AND sent.path = {path_of("acceptance.invite_uri")}
            CROSS JOIN collaboration_invite{GENERATION} AS invite ON invite.record_id = sent.id
                AND +invite.subject_uri = acceptance.subject_uri
                AND +invite.invitee_did = author.did
            WHERE inviter.did = {did_of("acceptance.invite_uri")}
              AND inviter.account_status = 'active')))
WHERE place = 1
"""  # noqa: S608 - constants

_MAY_SPEAK = f"""
(author.did = {did_of("{0}")} OR EXISTS (
     SELECT 1 FROM repo AS owner
     CROSS JOIN record AS sent ON sent.repo_id = owner.id
         AND sent.path BETWEEN '{_INVITE}/' AND '{_INVITE}0'
     CROSS JOIN collaboration_invite{GENERATION} AS invite ON invite.record_id = sent.id
         AND +invite.subject_uri = {{0}} AND +invite.invitee_did = author.did AND {_UNEXPIRED}
     CROSS JOIN record AS said ON said.repo_id = author.id
         AND said.path BETWEEN '{_ACCEPTANCE}/' AND '{_ACCEPTANCE}0'
     CROSS JOIN collaboration_invite_acceptance{GENERATION} AS acceptance
         ON acceptance.record_id = said.id AND +acceptance.subject_uri = {{0}}
         AND +acceptance.invite_uri = 'at://' || owner.did || '/' || sent.path
     WHERE owner.did = {did_of("{0}")} AND owner.account_status = 'active'))"""  # noqa: S608 - constants
"""The author of an edge holds the collection, or works on it with its owner's consent.

As `collaboration_states` has it, but looked for among what the owner has sent and the author has
said: anybody can invite and accept for any collection, and each edge would read all of that.
"""

_CLAIMS = f"""
CREATE VIEW collection_claims AS
SELECT edge.record_id AS rowid, {_URI} AS uri, author.did AS did, author.did AS owner_did,
       record.rkey AS rkey, record.cid AS cid, edge.created_at, record.indexed_at, edge.edge_id,
       edge.collection_uri, edge.source_uri, edge.target_uri, edge.relation_slug, edge.weight,
       edge.label, edge.status, edge.metadata, edge.updated_at,
       {_MAY_SPEAK.format("edge.collection_uri")}
       AND (edge.relation_slug <> 'subcollection-of' OR {_MAY_SPEAK.format("edge.source_uri")})
       AS is_authorised
FROM graph_edge{GENERATION} AS edge{_AUTHORED.format("edge")}
WHERE edge.collection_uri IS NOT NULL AND edge.authority = 0
"""  # noqa: S608 - constants
"""What people say belongs into collections, and whether they may.

What puts one collection below another needs somebody who may speak for both: nobody else says where
a collection belongs, and no stranger's edge can close a circle with its owner's.
"""

_LINKS = f"""
CREATE VIEW collection_links AS
SELECT * FROM collection_claims AS claim
WHERE is_authorised AND (relation_slug <> 'subcollection-of' OR (
    WITH RECURSIVE above(uri) AS (
        SELECT claim.target_uri
        UNION
        SELECT older.target_uri FROM above
        JOIN collection_claims AS older ON older.source_uri = above.uri
        WHERE older.relation_slug = 'subcollection-of' AND older.is_authorised
          AND (older.created_at, older.uri) < (claim.created_at, claim.uri)
        LIMIT {ANCESTORS_MAX}
    )
    SELECT count(*) < {ANCESTORS_MAX} AND max(above.uri = claim.source_uri) = 0 FROM above))
"""  # noqa: S608 - constants
"""Without the newest edge of every circle, so that collections form no circles at all."""

_EXISTS = f"""
EXISTS (
    SELECT 1 FROM repo AS owner
    JOIN record AS held ON held.repo_id = owner.id AND held.path = {path_of("{0}")}
    JOIN graph_node{GENERATION} AS node ON node.record_id = held.id
    WHERE owner.did = {did_of("{0}")} AND owner.account_status = 'active'
      AND node.subkind = 'collection' AND node.authority = 0)"""  # noqa: S608 - constants

_ORDER = f"""
(SELECT min(place.position) + 1 FROM repo AS owner
 JOIN record AS held ON held.repo_id = owner.id AND held.path = {path_of("link.collection_uri")}
 JOIN collection_order{GENERATION} AS place ON place.record_id = held.id
 WHERE owner.did = {did_of("link.collection_uri")} AND place.edge_uri = link.uri)"""  # noqa: S608 - constants

_BEYOND = f"""
(SELECT {ORDERED_MAX + 1} FROM repo AS owner
 JOIN record AS held ON held.repo_id = owner.id AND held.path = {path_of("link.collection_uri")}
 JOIN collection_order{GENERATION} AS place ON place.record_id = held.id
 WHERE owner.did = {did_of("link.collection_uri")} AND place.position = {ORDERED_MAX - 1})"""  # noqa: S608 - constants
"""Of an order with as many edges as are kept of one, so that what has no place comes after them."""

_TITLE = f"""
(SELECT eprint.title FROM repo AS holder
 JOIN record AS held ON held.repo_id = holder.id AND held.path = {path_of("link.target_uri")}
 JOIN eprint_submission{GENERATION} AS eprint ON eprint.record_id = held.id
 WHERE holder.did = {did_of("link.target_uri")} AND holder.account_status = 'active')"""  # noqa: S608 - constants

_EDGES = f"""
CREATE VIEW collection_edges AS
SELECT rowid, uri, did, owner_did, rkey, cid, created_at, indexed_at, edge_id, collection_uri,
       source_uri, target_uri, relation_slug, coalesce({_ORDER}, {_BEYOND}, weight) AS weight,
       label, status, metadata, updated_at, {_TITLE} AS target_title
FROM collection_links AS link
WHERE {_EXISTS.format("link.collection_uri")}
  AND (relation_slug <> 'subcollection-of' OR {_EXISTS.format("link.source_uri")})
"""  # noqa: S608 - constants

_PENDING = f"""
CREATE VIEW pending_collection_edges AS
SELECT rowid, uri, did, owner_did, rkey, cid, created_at, indexed_at, edge_id, collection_uri,
       source_uri, target_uri, relation_slug, weight, label, status, metadata, updated_at
FROM collection_claims AS claim
WHERE NOT is_authorised AND {_EXISTS.format("claim.collection_uri")}
"""  # noqa: S608 - constants
"""What waits for the author to become a collaborator."""

_COLLECTIONS = f"""
CREATE VIEW collections AS
SELECT node.record_id AS rowid, {_URI} AS uri, author.did AS did, author.did AS owner_did,
       record.rkey AS rkey, record.cid AS cid, node.created_at, record.indexed_at, node.node_id,
       node.label, node.description, node.visibility, node.tags, node.item_order, node.status,
       node.metadata, node.updated_at,
       (SELECT count(*) FROM collection_edges AS edge
        WHERE edge.collection_uri = {_URI} AND edge.relation_slug = 'contains') AS item_count,
       (WITH RECURSIVE above(uri, depth, is_there, said_at) AS (
            SELECT link.target_uri, 1, {_EXISTS.format("link.target_uri")}, link.created_at
            FROM collection_links AS link
            WHERE link.source_uri = {_URI} AND link.relation_slug = 'subcollection-of'
            UNION
            SELECT link.target_uri, depth + 1, {_EXISTS.format("link.target_uri")}, link.created_at
            FROM above JOIN collection_links AS link ON link.source_uri = above.uri
            WHERE NOT above.is_there AND link.relation_slug = 'subcollection-of'
            ORDER BY 2, 4 DESC LIMIT {ANCESTORS_MAX})
        SELECT uri FROM above WHERE is_there ORDER BY depth, said_at DESC, uri LIMIT 1
       ) AS parent_uri
FROM graph_node{GENERATION} AS node{_AUTHORED.format("node")}
WHERE node.subkind = 'collection' AND node.authority = 0
"""  # noqa: S608 - constants
"""`parent_uri` looks past collections that are gone: their children belong to what held them."""

_FIELDS = f"""
CREATE VIEW eprint_field AS
SELECT {_URI} AS uri, CAST(own.text AS INTEGER) AS position, own.subject AS field_uri,
       own.record_id AS rowid
FROM mark{GENERATION} AS own{_AUTHORED.format("own")}
WHERE own.name = 'field'
"""  # noqa: S608 - constants

RELATION_VIEWS = {
    "eprint_field": _FIELDS,
    "collaboration_states": _INVITES,
    "collaborations": _COLLABORATIONS,
    "collection_claims": _CLAIMS,
    "collection_links": _LINKS,
    "collection_edges": _EDGES,
    "pending_collection_edges": _PENDING,
    "collections": _COLLECTIONS,
    **CITATION_VIEWS,
}
"""Name -> statement; each looks only at earlier ones."""


def create_relation_views(generation: Generation) -> Iterator[str]:
    """Statements that make the views anew, upon the tables of a generation."""
    for name, statement in RELATION_VIEWS.items():
        yield f'DROP VIEW IF EXISTS "{name}"'
        yield generation.sql(statement)
