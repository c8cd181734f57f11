-- How far the work on a unit has come, so that a large repo is seen to be worked on.

ALTER TABLE operation_unit_begun ADD COLUMN records INTEGER NOT NULL DEFAULT 0;
                                            -- compared so far, and counted at the operation
