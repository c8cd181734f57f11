"""Citations for readers: those that were extracted, beside those that people curate.

Which eprint a cited work is, is not stored. It holds whenever both are there, whichever came first,
because it is looked up when it is read: by the strongest key that a visible eprint shares.
"""

from __future__ import annotations

from storage.generations import GENERATION

_RANK_BITS = 48
_ID_MASK = (1 << _RANK_BITS) - 1

CONFIDENCE = {"title": 0.8, "ambiguous title": 0.5}
"""How sure a match is; one by an identifier is certain, as 1.0."""


def _match(extraction_id: str, position: str, citing_id: str) -> str:
    """SQL for rank and record id of the eprint that a citation means, packed into one number.

    The first in the order of the indexes, so that no others are read: a title may be that of many.
    """
    return f"""
(SELECT shared.rank << {_RANK_BITS} | cited.id
 FROM citation_key AS shared
 JOIN eprint_match_key{GENERATION} AS known ON known.key = shared.key
 JOIN record AS cited ON cited.id = known.record_id
 JOIN repo AS holder ON holder.id = cited.repo_id AND holder.account_status = 'active'
 WHERE shared.extraction_id = {extraction_id} AND shared.position = {position}
   AND cited.id <> {citing_id}
 ORDER BY shared.rank, known.record_id LIMIT 1)"""  # noqa: S608 - constants


_FOUND = f"""
CREATE VIEW extracted_citations AS
SELECT 'at://' || author.did || '/' || record.path AS eprint_uri, found.source, found.title,
       found.doi, found.arxiv_id, found.year, found.venue, found.authors, found.sources, found.raw,
       found.pmid, found.pmcid, extraction.document_cid, extraction.id AS extraction_id,
       found.position, record.id AS citing_id, author.did AS eprint_did,
       {_match("extraction.id", "found.position", "record.id")} AS match
FROM extracted_citation AS found
JOIN citation_extraction AS extraction ON extraction.id = found.extraction_id
JOIN record ON record.id = extraction.record_id AND record.problem IS NULL
JOIN repo AS author ON author.id = record.repo_id AND author.account_status = 'active'
"""  # noqa: S608 - constants

_CITATIONS = f"""
CREATE VIEW citations AS
SELECT eprint_uri, source, title, doi, arxiv_id, year, venue, authors,
       (SELECT 'at://' || holder.did || '/' || cited.path
        FROM record AS cited JOIN repo AS holder ON holder.id = cited.repo_id
        WHERE cited.id = match & {_ID_MASK}) AS cited_uri,
       CASE match >> {_RANK_BITS} WHEN 0 THEN 'doi' WHEN 1 THEN 'arxiv' WHEN 2 THEN 'pmid'
            WHEN 3 THEN 'pmcid' WHEN 4 THEN 'title' END AS match_method,
       CASE WHEN match IS NULL THEN NULL
            WHEN match >> {_RANK_BITS} < 4 THEN 1.0
            WHEN (SELECT 1 FROM citation_key AS key
                  JOIN eprint_match_key{GENERATION} AS known ON known.key = key.key
                  JOIN record AS cited ON cited.id = known.record_id
                  JOIN repo AS holder
                      ON holder.id = cited.repo_id AND holder.account_status = 'active'
                  WHERE key.extraction_id = link.extraction_id AND key.position = link.position
                    AND key.rank = 4 AND known.record_id <> citing_id
                  LIMIT 1 OFFSET 1) IS NOT NULL
            THEN {CONFIDENCE["ambiguous title"]}
            ELSE {CONFIDENCE["title"]} END AS match_confidence,
       NULL AS user_record_uri, sources, raw, pmid, pmcid, document_cid, eprint_did
FROM extracted_citations AS link
UNION ALL
SELECT eprint_uri, 'user-provided', title, doi, arxiv_id, year, venue, authors, chive_match_uri,
       CASE WHEN chive_match_uri IS NOT NULL THEN 'user' END,
       CASE WHEN chive_match_uri IS NOT NULL THEN 1.0 END, uri, NULL, NULL, NULL, NULL, NULL,
       substr(eprint_uri, 6, instr(substr(eprint_uri, 6), '/') - 1)
FROM eprint_citation
"""  # noqa: S608 - constants

CITATION_VIEWS = {"extracted_citations": _FOUND, "citations": _CITATIONS}
"""Name -> statement."""

EXTRACTED_COUNTS = {
    "citation": """
(SELECT count(*) FROM citation_extraction AS extraction
 JOIN extracted_citation AS found ON found.extraction_id = extraction.id
 WHERE extraction.record_id = typed.record_id)""",
    "cited_by": f"""
(SELECT count(DISTINCT key.extraction_id << 16 | key.position)
 FROM eprint_match_key{GENERATION} AS own
 JOIN citation_key AS key ON key.key = own.key
 JOIN citation_extraction AS extraction ON extraction.id = key.extraction_id
 JOIN record AS citing ON citing.id = extraction.record_id AND citing.problem IS NULL
 JOIN repo AS author ON author.id = citing.repo_id AND author.account_status = 'active'
 WHERE own.record_id = typed.record_id AND citing.id <> typed.record_id
   AND {_match("key.extraction_id", "key.position", "citing.id")}
       & {_ID_MASK} = typed.record_id)""",  # noqa: S608 - constants
}
"""What is counted of an eprint (alias `typed`) besides the marks of this name, as SQL."""
