-- Sets of derived tables: one that readers see, one in the making, and what is being cleared away.

CREATE TABLE generation (
    number INTEGER PRIMARY KEY,             -- suffix of the names of its tables
    state TEXT NOT NULL,                    -- current | building | retired
    fingerprint TEXT NOT NULL,              -- of the declarations that its tables were made from
    judged_by TEXT NOT NULL,                -- lexicons that all records were held against; '' several
    has_search INTEGER NOT NULL,            -- 1: search rows are written as records change
    operation_id TEXT,                      -- that builds or has built it
    upto_id INTEGER NOT NULL,               -- last record that has to be copied
    collection TEXT NOT NULL,               -- how far the copy has come
    after_id INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX generation_in_use ON generation (state) WHERE state <> 'retired';

INSERT INTO generation SELECT 1, 'current', fingerprint, '', 1, NULL, 0, '', 0 FROM projection;

DROP TABLE projection;
