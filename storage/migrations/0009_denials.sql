-- What operators keep out. A denied account's repo cannot leave that state while its row here
-- exists, whoever writes to it; a denied record has a row without a value; a denied host's repos are
-- found by `pds_url`.

CREATE TABLE denial (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    subject TEXT NOT NULL UNIQUE,           -- DID | at://did/collection/rkey | host[:port]
    kind TEXT NOT NULL,                     -- account | record | host
    reason TEXT NOT NULL,
    denied_by TEXT NOT NULL,                -- DID of the admin, ours for a password
    denied_at REAL NOT NULL,
    purge TEXT NOT NULL                     -- no | wanted | done
) STRICT;

CREATE INDEX denial_kind ON denial (kind, id);
CREATE INDEX denial_purge ON denial (id) WHERE purge = 'wanted';
CREATE INDEX repo_denied ON repo (id) WHERE account_status = 'denied';

CREATE TRIGGER denial_of_new_repo AFTER INSERT ON repo
WHEN EXISTS (SELECT 1 FROM denial WHERE subject = new.did) BEGIN
    UPDATE repo SET state = 'denied', account_status = 'denied', wanted = 0, claimed = 0
        WHERE id = new.id;
END;

CREATE TRIGGER denial_of_repo AFTER UPDATE OF state, account_status, wanted, claimed ON repo
WHEN (new.state <> 'denied' OR new.account_status <> 'denied' OR new.wanted <> 0
      OR new.claimed <> 0)
     AND EXISTS (SELECT 1 FROM denial WHERE subject = new.did) BEGIN
    UPDATE repo SET state = 'denied', account_status = 'denied', wanted = 0, claimed = 0
        WHERE id = new.id;
END;
