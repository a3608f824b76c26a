-- Lost answers to refreshes, and sessions of dual-stack clients. Stop older replicas first: they
-- would not reset refresh_burned.

-- How many refresh tokens directly before the current one were burned: issued in answers that were
-- lost, and never to be used. The token before them is the parent of the current one.
ALTER TABLE sessions ADD COLUMN refresh_burned bigint NOT NULL DEFAULT 0;
