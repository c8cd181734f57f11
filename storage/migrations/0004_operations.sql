-- What became of the units of an operation, which of them was in progress at a crash, and history.

ALTER TABLE operation ADD COLUMN units_failed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE operation ADD COLUMN note TEXT;     -- what an operator should know of how it ran
ALTER TABLE operation ADD COLUMN is_folded INTEGER NOT NULL DEFAULT 0;
                                                -- 1: ended, and only its kept units are left

CREATE INDEX operation_unfolded ON operation (id) WHERE status <> 'running' AND is_folded = 0;

ALTER TABLE operation_unit ADD COLUMN is_kept INTEGER NOT NULL DEFAULT 0;
                                                -- 1: one of the first failures, for the history

CREATE TABLE operation_unit_begun (
    operation_id TEXT NOT NULL REFERENCES operation (id),
    unit TEXT NOT NULL,
    is_at_work INTEGER NOT NULL,                -- 1: between its begin and its end
    crashes INTEGER NOT NULL,                   -- starts of the process that found it at work
    PRIMARY KEY (operation_id, unit)
) STRICT, WITHOUT ROWID;
