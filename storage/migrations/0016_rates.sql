-- How fast an operation works is told of the time since its work began, or went on after a stop.

ALTER TABLE operation ADD COLUMN work_began_at REAL;
                                            -- unix seconds; NULL: it has not had its turn
ALTER TABLE operation ADD COLUMN units_before INTEGER NOT NULL DEFAULT 0;
                                            -- `units_processed` then
