-- What the documents of eprints cite, as we and the services we asked have read them. It does not
-- follow from records, so no rebuild of the derived tables touches it.

CREATE TABLE citation_extraction (
    id INTEGER PRIMARY KEY,
    record_id INTEGER UNIQUE,               -- the eprint; NULL once that is gone
    document_cid TEXT NOT NULL,
    version TEXT NOT NULL,                  -- of the extractor, and the sources it had
    is_complete INTEGER NOT NULL,           -- 0: a source could not be asked
    attempts INTEGER NOT NULL,              -- with this document and version
    outcome TEXT NOT NULL,
    extracted_at TEXT NOT NULL
) STRICT;

-- Ids of records are given again: what belonged to one must let go of it in the same transaction.
CREATE TRIGGER citation_extraction_orphaned AFTER DELETE ON record BEGIN
    UPDATE citation_extraction SET record_id = NULL WHERE record_id = old.id;
END;

CREATE INDEX citation_extraction_orphan ON citation_extraction (id) WHERE record_id IS NULL;

CREATE TABLE extracted_citation (
    extraction_id INTEGER NOT NULL REFERENCES citation_extraction (id),
    position INTEGER NOT NULL,
    source TEXT NOT NULL,                   -- whose description it is
    sources TEXT NOT NULL,                  -- JSON: all that name the work
    raw TEXT,                               -- the entry as it stands in the document
    title TEXT,
    authors TEXT NOT NULL,                  -- JSON
    year INTEGER,
    venue TEXT,
    doi TEXT,
    arxiv_id TEXT,
    pmid TEXT,
    pmcid TEXT,
    PRIMARY KEY (extraction_id, position)
) STRICT, WITHOUT ROWID;

-- By what an eprint can be recognised as the cited work: compared with the keys of eprints.
CREATE TABLE citation_key (
    extraction_id INTEGER NOT NULL,
    position INTEGER NOT NULL,
    rank INTEGER NOT NULL,                  -- 0 DOI, 1 arXiv, 2 PubMed, 3 PubMed Central, 4 title
    key TEXT NOT NULL,
    PRIMARY KEY (extraction_id, position, rank),
    FOREIGN KEY (extraction_id, position) REFERENCES extracted_citation (extraction_id, position)
) STRICT, WITHOUT ROWID;

CREATE INDEX citation_key_key ON citation_key (key);
