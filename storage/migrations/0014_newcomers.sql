-- What hosts were asked about new accounts, so that no survey is without end and none forgets any.

ALTER TABLE gap ADD COLUMN unread INTEGER NOT NULL DEFAULT 0;
                                            -- hosts whose lists were not read to their end

CREATE TABLE gap_asked (
    day INTEGER NOT NULL,                   -- of UTC, counted from 1970
    host_group TEXT NOT NULL,
    pages INTEGER NOT NULL,                 -- of lists of its hosts
    accounts INTEGER NOT NULL,              -- whose collections were asked for
    PRIMARY KEY (day, host_group)
) STRICT, WITHOUT ROWID;
