-- A gap that comes while others are repaired does not begin their repair anew, and what it waits
-- for ends: each question says for which gaps it is asked, each repo since when it is waited for.

ALTER TABLE gap ADD COLUMN not_before REAL NOT NULL DEFAULT 0;
                                            -- its repair does not begin earlier
ALTER TABLE gap ADD COLUMN unreachable INTEGER NOT NULL DEFAULT 0;
                                            -- repos that it waited for in vain

ALTER TABLE gap_question ADD COLUMN wanted_at REAL NOT NULL DEFAULT 0;
                                            -- `surveyed_at` of the first gap that waits for it
ALTER TABLE gap_question ADD COLUMN again_at REAL;
                                            -- of the first one that wants it asked once more

ALTER TABLE gap_repo ADD COLUMN wanted_at REAL NOT NULL DEFAULT 0;
                                            -- `surveyed_at` of the first gap that waits for it
ALTER TABLE gap_repo ADD COLUMN put_at REAL NOT NULL DEFAULT 0;
                                            -- when it was last seen to differ
ALTER TABLE gap_repo ADD COLUMN let_go_at REAL NOT NULL DEFAULT 0;
                                            -- a host that does not answer is waited for so long
ALTER TABLE gap_repo ADD COLUMN claim INTEGER NOT NULL DEFAULT 0;
ALTER TABLE gap_repo ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
                                            -- both as they were in its row then

UPDATE gap_repo SET (put_at, let_go_at, claim, attempts) = (
    SELECT strftime('%s', 'now'), strftime('%s', 'now') + 21600, claim, attempts FROM repo
    WHERE repo.id = repo_id);
