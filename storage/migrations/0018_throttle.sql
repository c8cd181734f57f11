-- A repo that keeps desynchronising is fetched more and more rarely, whatever is heard of it
-- meanwhile; and only answers that are wrong, not hosts that are away, make it count as invalid.

ALTER TABLE repo ADD COLUMN fetch_at REAL NOT NULL DEFAULT 0;
                                            -- unix seconds; its content is not fetched before
ALTER TABLE repo ADD COLUMN refusals INTEGER NOT NULL DEFAULT 0;
                                            -- wrong answers in a row
