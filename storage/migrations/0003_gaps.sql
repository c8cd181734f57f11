-- Parts of a stream that were not seen, and how far their repair has come.

CREATE TABLE gap (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    url TEXT NOT NULL,
    reason TEXT NOT NULL,
    after_seq INTEGER,                      -- last event before it
    after_at REAL,                          -- `time` of that event, or of a later one before it
    before_seq INTEGER,                     -- first event after it; NULL until it has come
    before_at REAL,
    detected_at REAL NOT NULL,
    surveyed_at REAL,                       -- when all that may have changed was put down below
    repaired_at REAL
) STRICT;

CREATE INDEX gap_open ON gap (url) WHERE repaired_at IS NULL;

-- What is still to be asked, and since when. Gaps wait until nothing is left.
CREATE TABLE gap_question (
    kind TEXT NOT NULL,                     -- host | collection
    target TEXT NOT NULL,                   -- URL of a PDS | NSID
    since REAL NOT NULL,
    cursor TEXT,                            -- of the next page, as the host gave it
    after_id INTEGER,                       -- repos up to it were asked for one by one; NULL: pages
    pages INTEGER NOT NULL DEFAULT 0,       -- read since then
    failures INTEGER NOT NULL DEFAULT 0,    -- in a row
    retry_at REAL NOT NULL DEFAULT 0,
    PRIMARY KEY (kind, target)
) STRICT, WITHOUT ROWID;

-- Repos that differed, until they have been compared.
CREATE TABLE gap_repo (
    repo_id INTEGER PRIMARY KEY REFERENCES repo (id) ON DELETE CASCADE
) STRICT;

CREATE INDEX repo_host ON repo (pds_url, id);
