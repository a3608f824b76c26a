-- What the removal of unverified accounts has to know, which it looked up in the audit log before; and
-- the removal of devices.failed_logins, which no version has read or written since 0009.
-- Safe beside the previous version: its INSERTs name their columns, and its accounts get no origin.

-- How the account was created; NULL if unknown, because the account is older than this column or was
-- created by a version that is. Old accounts are not looked up in the audit log: that would take long
-- if there are many, and an account not known to come from Register is merely kept.
-- NOT VALID, as a check of the rows, which all have NULL, would keep every login waiting for it.
ALTER TABLE users ADD COLUMN origin text;
ALTER TABLE users ADD CONSTRAINT users_origin_check
    CHECK (origin IN ('register', 'federated', 'import', 'operator')) NOT VALID;
-- When a login last proved who the user is (by the first factor at least), or a session was created
-- for the user; NULL if never, as far as is known.
ALTER TABLE users ADD COLUMN last_login_time timestamptz;

ALTER TABLE devices DROP COLUMN failed_logins;
