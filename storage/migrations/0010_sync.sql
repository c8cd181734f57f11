-- How far the log of the PLC directory was read, and hosts that show less than we hold.

CREATE TABLE directory_cursor (
    url TEXT PRIMARY KEY,
    since_ms INTEGER NOT NULL,              -- all operations after it, up to after_ms, were read
    after_ms INTEGER NOT NULL,              -- `createdAt` of the last one, unix milliseconds
    read_at REAL NOT NULL DEFAULT 0         -- our clock when the log was last read to its end
) STRICT;

CREATE TABLE rollback (
    repo_id INTEGER PRIMARY KEY REFERENCES repo (id) ON DELETE CASCADE,
    pds_url TEXT NOT NULL,                  -- who says so
    since REAL NOT NULL,                    -- and has said nothing else from then on
    host_rev TEXT NOT NULL                  -- what it shows, older than ours
) STRICT;
