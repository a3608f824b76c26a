-- What the removal of unverified accounts asks for, which it had to find in the audit log before; and
-- the end of devices.failed_logins, which no version reads or writes since 0009.
-- Safe beside the previous version: it names its columns when it adds users, and its accounts have
-- no origin.

-- How the account was made; NULL: not known, as it is older than this column or was made by a version
-- that is. It is not looked up in the audit log: that would take long for many accounts, and an
-- account that is not known to be made by Register is only kept.
ALTER TABLE users ADD COLUMN origin text
    CHECK (origin IN ('register', 'federated', 'import', 'operator'));
-- When a login last proved who the user is, by its first factor at least, or a session was created for
-- the user; NULL: never, as far as is known.
ALTER TABLE users ADD COLUMN last_login_time timestamptz;

ALTER TABLE devices DROP COLUMN failed_logins;
