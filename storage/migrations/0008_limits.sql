-- What a repo may hold, whose turn it is among hosts, and which repos are untracked again.

ALTER TABLE repo ADD COLUMN host_group TEXT NOT NULL DEFAULT '';
                                            -- who is behind its host; '': host not known
ALTER TABLE repo ADD COLUMN is_admitted INTEGER NOT NULL DEFAULT 0;
                                            -- 1: counted among its group's new repos of a day
ALTER TABLE repo ADD COLUMN is_unlimited INTEGER NOT NULL DEFAULT 0;
                                            -- 1: an operator wants it whatever its size
ALTER TABLE repo ADD COLUMN records INTEGER NOT NULL DEFAULT 0;
ALTER TABLE repo ADD COLUMN record_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE repo ADD COLUMN empty_since REAL;
                                            -- NULL: has rows, or was not looked at
ALTER TABLE repo ADD COLUMN is_holed INTEGER NOT NULL DEFAULT 0;
                                            -- 1: older buffered commits were dropped
ALTER TABLE repo ADD COLUMN rounds INTEGER NOT NULL DEFAULT 0;
                                            -- fetches in a row that a full buffer outran, at one rev

UPDATE repo SET (records, record_bytes) = (
    SELECT count(*), coalesce(sum(length(CAST(value AS BLOB))), 0) FROM record
    WHERE record.repo_id = repo.id);
UPDATE repo SET is_admitted = (state <> 'pending');

CREATE TRIGGER repo_record_insert AFTER INSERT ON record BEGIN
    UPDATE repo SET records = records + 1, empty_since = NULL,
                    record_bytes = record_bytes + coalesce(length(CAST(new.value AS BLOB)), 0)
    WHERE id = new.repo_id;
END;

CREATE TRIGGER repo_record_update AFTER UPDATE OF value ON record BEGIN
    UPDATE repo SET record_bytes = record_bytes + coalesce(length(CAST(new.value AS BLOB)), 0)
                                   - coalesce(length(CAST(old.value AS BLOB)), 0)
    WHERE id = new.repo_id;
END;

CREATE TRIGGER repo_record_delete AFTER DELETE ON record BEGIN
    UPDATE repo SET records = records - 1,
                    record_bytes = record_bytes - coalesce(length(CAST(old.value AS BLOB)), 0)
    WHERE id = old.repo_id;
END;

CREATE INDEX repo_emptied ON repo (id) WHERE records = 0 AND empty_since IS NULL;
CREATE INDEX repo_empty ON repo (empty_since) WHERE empty_since IS NOT NULL;
CREATE INDEX repo_limited ON repo (host_group) WHERE state = 'limited';
CREATE INDEX repo_buffering ON repo (pending_bytes) WHERE pending_bytes > 0;

CREATE TRIGGER tally_pending_bytes AFTER UPDATE OF pending_bytes ON repo
WHEN old.pending_bytes <> new.pending_bytes BEGIN
    INSERT INTO tally VALUES ('pending_bytes', '', new.pending_bytes - old.pending_bytes)
        ON CONFLICT DO UPDATE SET total = total + excluded.total;
END;

CREATE TRIGGER tally_pending_bytes_delete AFTER DELETE ON repo WHEN old.pending_bytes <> 0 BEGIN
    UPDATE tally SET total = total - old.pending_bytes WHERE kind = 'pending_bytes';
END;

INSERT INTO tally SELECT 'pending_bytes', '', coalesce(sum(pending_bytes), 0) FROM repo;

-- New repos of a host group in a day, counted from 1970.
CREATE TABLE admission (
    day INTEGER NOT NULL,
    host_group TEXT NOT NULL,
    repos INTEGER NOT NULL,
    PRIMARY KEY (day, host_group)
) STRICT, WITHOUT ROWID;

-- The queue of the resync. Lanes 0 (for operators) and 1 (what is held) have a turn for each host;
-- 2 and 3, of what was never fetched, have one for each host group. Lane 3 was never tried, and
-- comes newest first; the others go by time.
DROP INDEX repo_work;
CREATE INDEX repo_work ON repo (coalesce(pds_url, ''), min(priority, 1), retry_at)
    WHERE wanted <> 0 AND claimed = 0 AND state <> 'pending'
          AND (priority = 0 OR rev IS NOT NULL);
CREATE INDEX repo_later ON repo (host_group, retry_at)
    WHERE wanted <> 0 AND claimed = 0 AND state <> 'pending' AND priority > 0 AND rev IS NULL;
CREATE INDEX repo_new ON repo (host_group, id)
    WHERE wanted <> 0 AND claimed = 0 AND state = 'pending';

CREATE TABLE turn (
    host TEXT NOT NULL,                     -- URL, or name of a group; '': not known
    lane INTEGER NOT NULL,
    due_at REAL NOT NULL,                   -- when a repo of it may be due, not before:
    not_before REAL NOT NULL,               -- it was served then, or is left alone until then
    standing INTEGER NOT NULL,              -- 0 not asked yet, 1 answers, 2 failed when last asked
    PRIMARY KEY (host, lane)
) STRICT, WITHOUT ROWID;

CREATE INDEX turn_due ON turn (lane, standing, due_at);

CREATE TRIGGER turn_repo_insert AFTER INSERT ON repo WHEN new.wanted <> 0 AND new.claimed = 0 BEGIN
    INSERT INTO turn
    SELECT host, lane,
           max(new.retry_at, coalesce(CAST(strftime('%s', new.tracked_since) AS REAL), 0)), 0, 0
    FROM (SELECT iif(lane < 2, coalesce(new.pds_url, ''), new.host_group) AS host, lane
          FROM (SELECT CASE WHEN new.state = 'pending' THEN 3
                            WHEN new.priority = 0 THEN 0
                            WHEN new.rev IS NULL THEN 2
                            ELSE 1 END AS lane)) AS job
    WHERE true
    ON CONFLICT DO UPDATE SET due_at = min(due_at, max(excluded.due_at, not_before));
END;

CREATE TRIGGER turn_repo_update
AFTER UPDATE OF state, wanted, claimed, priority, retry_at, pds_url, host_group ON repo
WHEN new.wanted <> 0 AND new.claimed = 0 BEGIN
    INSERT INTO turn
    SELECT host, lane, new.retry_at, 0,
           coalesce((SELECT max(standing) FROM turn WHERE turn.host = job.host), 0)
    FROM (SELECT iif(lane < 2, coalesce(new.pds_url, ''), new.host_group) AS host, lane
          FROM (SELECT CASE WHEN new.state = 'pending' THEN 3
                            WHEN new.priority = 0 THEN 0
                            WHEN new.rev IS NULL THEN 2
                            ELSE 1 END AS lane)) AS job
    WHERE true
    ON CONFLICT DO UPDATE SET due_at = min(due_at, max(excluded.due_at, not_before));
END;

UPDATE repo SET wanted = wanted WHERE wanted <> 0 AND claimed = 0;
