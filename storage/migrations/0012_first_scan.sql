-- A scan whose lists of the relay could not be read has not been over all hosts.

DROP TRIGGER first_scan_completed;

CREATE TRIGGER first_scan_completed AFTER UPDATE OF status ON operation
WHEN new.type = 'pdsScan' AND new.key = '*' AND new.status = 'completed'
     AND new.checkpoint ->> '$.are_hosts_read' AND new.checkpoint ->> '$.are_lists_whole' BEGIN
    INSERT INTO first_scan VALUES (1, new.completed_at) ON CONFLICT DO NOTHING;
END;
