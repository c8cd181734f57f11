-- Tracked repos whose identity is in doubt (the first bit of `wanted`) have turns of their own, by
-- the host where they were last seen, with a question mark before its URL. Their standing is 3: what
-- is known of the host does not hold them up, for they may have left it.
DROP INDEX repo_work;
CREATE INDEX repo_work
    ON repo (coalesce(iif(wanted & 1, '?', '') || pds_url, ''), min(priority, 1), retry_at)
    WHERE wanted <> 0 AND claimed = 0 AND state <> 'pending'
          AND (priority = 0 OR rev IS NOT NULL);

DROP TRIGGER turn_repo_insert;
CREATE TRIGGER turn_repo_insert AFTER INSERT ON repo WHEN new.wanted <> 0 AND new.claimed = 0 BEGIN
    INSERT INTO turn
    SELECT host, lane,
           max(new.retry_at, coalesce(CAST(strftime('%s', new.tracked_since) AS REAL), 0)), 0,
           iif(host LIKE '?%', 3, 0)
    FROM (SELECT iif(lane < 2, coalesce(iif(new.wanted & 1, '?', '') || new.pds_url, ''),
                     new.host_group) AS host, lane
          FROM (SELECT CASE WHEN new.state = 'pending' THEN 3
                            WHEN new.priority = 0 THEN 0
                            WHEN new.rev IS NULL THEN 2
                            ELSE 1 END AS lane)) AS job
    WHERE true
    ON CONFLICT DO UPDATE SET due_at = min(due_at, max(excluded.due_at, not_before));
END;

DROP TRIGGER turn_repo_update;
CREATE TRIGGER turn_repo_update
AFTER UPDATE OF state, wanted, claimed, priority, retry_at, pds_url, host_group ON repo
WHEN new.wanted <> 0 AND new.claimed = 0 BEGIN
    INSERT INTO turn
    SELECT host, lane, new.retry_at, 0,
           iif(host LIKE '?%', 3,
               coalesce((SELECT max(standing) FROM turn WHERE turn.host = job.host), 0))
    FROM (SELECT iif(lane < 2, coalesce(iif(new.wanted & 1, '?', '') || new.pds_url, ''),
                     new.host_group) AS host, lane
          FROM (SELECT CASE WHEN new.state = 'pending' THEN 3
                            WHEN new.priority = 0 THEN 0
                            WHEN new.rev IS NULL THEN 2
                            ELSE 1 END AS lane)) AS job
    WHERE true
    ON CONFLICT DO UPDATE SET due_at = min(due_at, max(excluded.due_at, not_before));
END;

UPDATE repo SET wanted = wanted WHERE wanted <> 0 AND claimed = 0;
