-- One count of failures for all known devices of a user together, beside users.failed_logins, which
-- counts those of strangers. devices.failed_logins is no longer counted: the version before still
-- does, so the column goes with the next one.

-- Consecutive failed logins from devices that logged in before; reset by a success.
ALTER TABLE users ADD COLUMN failed_device_logins integer NOT NULL DEFAULT 0;
