-- The hosts that we know, how far a pass over each has come, and what was asked of them.

CREATE TABLE host (
    id INTEGER PRIMARY KEY,
    url TEXT NOT NULL UNIQUE,               -- origin, spelled as that of a repo
    source TEXT NOT NULL,                   -- repo | relay | operator: who named it first
    status TEXT NOT NULL,                   -- pending | active | empty | unreachable
    next_scan_at REAL NOT NULL,
    scanned_at REAL,                        -- end of the last pass that left nothing out
    records INTEGER NOT NULL DEFAULT 0,     -- in scope, in that pass
    failures INTEGER NOT NULL DEFAULT 0,    -- passes in a row that came to nothing
    failures_total INTEGER NOT NULL DEFAULT 0,
    error TEXT,                             -- of the last of them
    operation_id TEXT,                      -- whose pass it was or is
    leased_until REAL NOT NULL DEFAULT 0,
    is_open INTEGER NOT NULL DEFAULT 0,     -- 1: the pass has not ended
    is_listed INTEGER NOT NULL DEFAULT 0,   -- 1: its list was read to the end
    cursor TEXT,                            -- of the next page, as the host gave it
    pages INTEGER NOT NULL DEFAULT 0,
    pass_records INTEGER NOT NULL DEFAULT 0,
    outcomes TEXT NOT NULL DEFAULT '{}'     -- JSON: outcome -> repos, of that pass
) STRICT;

CREATE INDEX host_due ON host (next_scan_at);
CREATE INDEX host_operation ON host (operation_id);

INSERT INTO host (url, source, status, next_scan_at)
SELECT DISTINCT pds_url, 'repo', 'pending', 0 FROM repo WHERE pds_url IS NOT NULL;

CREATE TRIGGER host_of_repo AFTER UPDATE OF pds_url ON repo
WHEN new.pds_url IS NOT NULL AND new.pds_url IS NOT old.pds_url BEGIN
    INSERT INTO host (url, source, status, next_scan_at) VALUES (new.pds_url, 'repo', 'pending', 0)
        ON CONFLICT DO NOTHING;
END;

-- Unknown repos on a host's list that are still to be asked about, in the pass of an operation.
CREATE TABLE scan_candidate (
    operation_id TEXT NOT NULL,
    host_id INTEGER NOT NULL,
    did TEXT NOT NULL,
    rev TEXT NOT NULL,                      -- as the host claims; empty: not told
    PRIMARY KEY (operation_id, host_id, did)
) STRICT, WITHOUT ROWID;

CREATE INDEX scan_candidate_newest ON scan_candidate (operation_id, host_id, rev);

-- Unknown repos that the relay says have records in scope, for the scan of one host.
CREATE TABLE scan_nominee (
    operation_id TEXT NOT NULL,
    did TEXT NOT NULL,
    PRIMARY KEY (operation_id, did)
) STRICT, WITHOUT ROWID;

-- Repos with nothing for us, by a hash of host and DID: not asked about again for a while.
CREATE TABLE asked_repo (
    hash INTEGER PRIMARY KEY,
    asked_on INTEGER NOT NULL               -- days since 1970
) STRICT;

CREATE INDEX asked_repo_age ON asked_repo (asked_on);

-- When a scan of all hosts was first completed.
CREATE TABLE first_scan (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    completed_at REAL NOT NULL
) STRICT;

CREATE TRIGGER first_scan_completed AFTER UPDATE OF status ON operation
WHEN new.type = 'pdsScan' AND new.key = '*' AND new.status = 'completed' BEGIN
    INSERT INTO first_scan VALUES (1, new.completed_at) ON CONFLICT DO NOTHING;
END;
