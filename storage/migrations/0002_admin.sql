-- What admins did, and up to when their tokens may have been used.

CREATE TABLE audit_entry (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    actor TEXT NOT NULL,                    -- DID
    action TEXT NOT NULL,                   -- NSID
    target TEXT,
    details TEXT NOT NULL,                  -- JSON: input of the call, shortened
    outcome TEXT NOT NULL                   -- started | ok | interrupted | name of an error
) STRICT;

CREATE INDEX audit_entry_actor ON audit_entry (actor, id);
CREATE INDEX audit_entry_started ON audit_entry (id) WHERE outcome = 'started';

CREATE TABLE accepted_token (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    newest_iat INTEGER NOT NULL             -- of all tokens ever accepted
) STRICT;
