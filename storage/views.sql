-- The surface for readers of the file. Views hide inactive accounts; tables do not.

DROP VIEW IF EXISTS records;
CREATE VIEW records AS
SELECT 'at://' || repo.did || '/' || record.path AS uri,
       repo.did AS did,
       record.collection AS collection,
       record.rkey AS rkey,
       record.cid AS cid,
       record.rev AS rev,
       record.value AS value,
       record.problem IS NULL AS valid,
       record.source AS source,
       record.indexed_at AS indexed_at,
       record.problem AS problem
FROM record JOIN repo ON repo.id = record.repo_id
WHERE repo.account_status = 'active' AND record.problem IS NOT 'denied';

DROP VIEW IF EXISTS accounts;
CREATE VIEW accounts AS
SELECT did,
       handle,
       pds_url,
       account_status AS status,
       state,
       rev,
       data AS data_cid,
       tracked_since,
       updated_at
FROM repo;

DROP VIEW IF EXISTS operations;
CREATE VIEW operations AS
SELECT id,
       type,
       status,
       mode,
       params,
       strftime('%Y-%m-%dT%H:%M:%fZ', started_at, 'unixepoch') AS started_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', completed_at, 'unixepoch') AS completed_at,
       started_by,
       records_processed,
       total_records,
       error
FROM operation;

DROP VIEW IF EXISTS firehose;
CREATE VIEW firehose AS
SELECT url, nullif(seq, -1) AS cursor, updated_at FROM firehose_cursor;

DROP VIEW IF EXISTS gaps;
CREATE VIEW gaps AS
SELECT id,
       url,
       reason,
       after_seq,
       strftime('%Y-%m-%dT%H:%M:%fZ', after_at, 'unixepoch') AS after_at,
       before_seq,
       strftime('%Y-%m-%dT%H:%M:%fZ', before_at, 'unixepoch') AS before_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', detected_at, 'unixepoch') AS detected_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', surveyed_at, 'unixepoch') AS surveyed_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', repaired_at, 'unixepoch') AS repaired_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', nullif(not_before, 0), 'unixepoch') AS not_before,
       unreachable,
       unread
FROM gap;

DROP VIEW IF EXISTS denials;
CREATE VIEW denials AS
SELECT id,
       subject,
       kind,
       reason,
       denied_by,
       strftime('%Y-%m-%dT%H:%M:%fZ', denied_at, 'unixepoch') AS denied_at,
       purge = 'done' AS purged
FROM denial;

DROP VIEW IF EXISTS dead_letters;
CREATE VIEW dead_letters AS
SELECT id,
       reason,
       did,
       uri,
       seq,
       message,
       retry_count,
       strftime('%Y-%m-%dT%H:%M:%fZ', created_at, 'unixepoch') AS created_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', last_retry_at, 'unixepoch') AS last_retry_at
FROM dead_letter;

DROP VIEW IF EXISTS audit_log;
CREATE VIEW audit_log AS
SELECT id,
       strftime('%Y-%m-%dT%H:%M:%fZ', at, 'unixepoch') AS at,
       actor,
       action,
       target,
       outcome
FROM audit_entry;

DROP VIEW IF EXISTS pds_hosts;
CREATE VIEW pds_hosts AS
SELECT url,
       CASE WHEN is_open AND leased_until > CAST(strftime('%s', 'now') AS REAL) THEN 'scanning'
            ELSE status END AS status,
       source,
       strftime('%Y-%m-%dT%H:%M:%fZ', scanned_at, 'unixepoch') AS scanned_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', nullif(next_scan_at, 0), 'unixepoch') AS next_scan_at,
       records,
       failures,
       failures_total,
       error,
       operation_id
FROM host;
