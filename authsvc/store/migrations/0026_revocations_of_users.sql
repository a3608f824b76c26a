-- Which access tokens an event of a user refuses, and which rows of the log are none of the watchers'
-- business.
-- STOP OLDER REPLICAS FIRST: they would issue and accept tokens without looking at the new column.
-- Nothing has been released yet. Neither column makes PostgreSQL rewrite its table.

-- Access tokens of the user whose `iat` is at or before the second of this time are refused; tokens
-- that are issued later get a later `iat`. NULL refuses none.
ALTER TABLE users ADD COLUMN token_revoke_time timestamptz;

-- Whether a row only makes replicas drop what they have cached, because a role was added or defined
-- differently: whatever was issued before remains valid.
ALTER TABLE revocations ADD COLUMN cache_only boolean NOT NULL DEFAULT false;

-- Whoever begins to watch revocations is sent the latest in the order of their times; those of one
-- time can be very many.
CREATE INDEX revocations_revoke_time_revocation_id ON revocations (revoke_time, revocation_id);
DROP INDEX revocations_revoke_time;
