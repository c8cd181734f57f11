-- The rows that are the truth: repos, their records, the cursor, operations. Typed tables and
-- search are derived from `record` and are made by the registry, not here.

CREATE TABLE repo (
    id INTEGER PRIMARY KEY,
    did TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    account_status TEXT NOT NULL,
    account_at REAL NOT NULL,               -- time of the applied #account event
    handle TEXT,                            -- verified in both directions, else NULL
    pds_url TEXT,
    signing_key TEXT,                       -- multibase
    identity_at REAL NOT NULL,              -- when the DID document was last resolved
    rev TEXT,                               -- of the last verified commit block
    data TEXT,                              -- MST root of that commit
    host_rev TEXT,                          -- the host's own rev when the rows were last complete
    scope_id TEXT,                          -- scope under which the rows are complete, else NULL
    wanted INTEGER NOT NULL,                -- work raised since the last claim (bits)
    claimed INTEGER NOT NULL,               -- work that the current claim took on (bits)
    claim INTEGER NOT NULL,                 -- number of the current or last claim
    priority INTEGER NOT NULL,
    retry_at REAL NOT NULL,
    attempts INTEGER NOT NULL,             -- failed fetches in a row
    desyncs INTEGER NOT NULL,
    synced_at REAL NOT NULL,                -- when a resync last made it active
    verified_at REAL NOT NULL,              -- when it was last compared with its host
    reason TEXT,                            -- why it is not active
    pending_bytes INTEGER NOT NULL DEFAULT 0,
    tracked_since TEXT NOT NULL,
    updated_at TEXT NOT NULL
) STRICT;

CREATE INDEX repo_work ON repo (priority, retry_at) WHERE wanted <> 0 AND claimed = 0;

CREATE TABLE record (
    id INTEGER PRIMARY KEY,
    repo_id INTEGER NOT NULL REFERENCES repo (id),
    path TEXT NOT NULL,                     -- collection/rkey: the MST key
    cid TEXT NOT NULL,
    rev TEXT NOT NULL,                      -- commit that brought this value to us
    value TEXT,                             -- ATProto JSON; NULL where the data model is broken
    problem TEXT,                           -- first violation; NULL when valid
    source TEXT NOT NULL,
    indexed_at TEXT NOT NULL,
    collection TEXT GENERATED ALWAYS AS (substr(path, 1, instr(path, '/') - 1)) VIRTUAL,
    rkey TEXT GENERATED ALWAYS AS (substr(path, instr(path, '/') + 1)) VIRTUAL,
    UNIQUE (repo_id, path)
) STRICT;

CREATE INDEX record_collection ON record (collection, id);

-- Live commits of a repo that a worker is fetching, or whose key is stale: raw frames, in order.
CREATE TABLE pending_commit (
    id INTEGER PRIMARY KEY,
    repo_id INTEGER NOT NULL REFERENCES repo (id),
    frame BLOB NOT NULL
) STRICT;

CREATE INDEX pending_commit_repo ON pending_commit (repo_id, id);

CREATE TABLE firehose_cursor (
    url TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    event_at REAL,                          -- `time` of the newest event up to it
    updated_at TEXT NOT NULL
) STRICT;

CREATE TABLE operation (
    id TEXT PRIMARY KEY,
    type TEXT NOT NULL,
    key TEXT NOT NULL,
    mode TEXT NOT NULL,
    phase TEXT NOT NULL,
    params TEXT NOT NULL,
    status TEXT NOT NULL,
    started_at REAL NOT NULL,
    completed_at REAL,
    started_by TEXT,
    records_processed INTEGER NOT NULL,
    total_records INTEGER,
    unit TEXT NOT NULL,
    units_processed INTEGER NOT NULL,
    total_units INTEGER,
    outcomes TEXT NOT NULL,                 -- JSON: outcome -> units
    checkpoint TEXT,                        -- JSON, the type's own
    error TEXT,
    cancel_requested INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX operation_running ON operation (type, key) WHERE status = 'running';
CREATE INDEX operation_started ON operation (started_at);

CREATE TABLE operation_unit (
    operation_id TEXT NOT NULL REFERENCES operation (id),
    unit TEXT NOT NULL,
    outcome TEXT NOT NULL,
    records INTEGER NOT NULL,
    message TEXT,
    PRIMARY KEY (operation_id, unit)
) STRICT, WITHOUT ROWID;

CREATE TABLE dead_letter (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    reason TEXT NOT NULL,
    did TEXT,
    uri TEXT,
    seq INTEGER,
    message TEXT NOT NULL,
    retry_count INTEGER NOT NULL,
    created_at REAL NOT NULL,
    last_retry_at REAL
) STRICT;

CREATE INDEX dead_letter_did ON dead_letter (did, reason, id);
CREATE INDEX dead_letter_uri ON dead_letter (uri);

-- Totals, kept true by the triggers below in whatever transaction changes a row.
CREATE TABLE tally (
    kind TEXT NOT NULL,                     -- repo_state | account_status | collection | dead_letter
    name TEXT NOT NULL,
    total INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER tally_repo_insert AFTER INSERT ON repo BEGIN
    INSERT INTO tally VALUES ('repo_state', new.state, 1)
        ON CONFLICT DO UPDATE SET total = total + 1;
    INSERT INTO tally VALUES ('account_status', new.account_status, 1)
        ON CONFLICT DO UPDATE SET total = total + 1;
END;

CREATE TRIGGER tally_repo_state AFTER UPDATE OF state ON repo WHEN old.state <> new.state BEGIN
    UPDATE tally SET total = total - 1 WHERE kind = 'repo_state' AND name = old.state;
    INSERT INTO tally VALUES ('repo_state', new.state, 1)
        ON CONFLICT DO UPDATE SET total = total + 1;
END;

CREATE TRIGGER tally_account_status AFTER UPDATE OF account_status ON repo
WHEN old.account_status <> new.account_status BEGIN
    UPDATE tally SET total = total - 1 WHERE kind = 'account_status' AND name = old.account_status;
    INSERT INTO tally VALUES ('account_status', new.account_status, 1)
        ON CONFLICT DO UPDATE SET total = total + 1;
END;

CREATE TRIGGER tally_repo_delete AFTER DELETE ON repo BEGIN
    UPDATE tally SET total = total - 1 WHERE kind = 'repo_state' AND name = old.state;
    UPDATE tally SET total = total - 1 WHERE kind = 'account_status' AND name = old.account_status;
END;

CREATE TRIGGER tally_record_insert AFTER INSERT ON record BEGIN
    INSERT INTO tally VALUES ('collection', substr(new.path, 1, instr(new.path, '/') - 1), 1)
        ON CONFLICT DO UPDATE SET total = total + 1;
END;

CREATE TRIGGER tally_record_delete AFTER DELETE ON record BEGIN
    UPDATE tally SET total = total - 1
        WHERE kind = 'collection' AND name = substr(old.path, 1, instr(old.path, '/') - 1);
END;

CREATE TRIGGER tally_dead_letter_insert AFTER INSERT ON dead_letter BEGIN
    INSERT INTO tally VALUES ('dead_letter', new.reason, 1)
        ON CONFLICT DO UPDATE SET total = total + 1;
END;

CREATE TRIGGER tally_dead_letter_delete AFTER DELETE ON dead_letter BEGIN
    UPDATE tally SET total = total - 1 WHERE kind = 'dead_letter' AND name = old.reason;
END;

-- Which declarations the derived tables were made from.
CREATE TABLE projection (
    fingerprint TEXT NOT NULL
) STRICT;
