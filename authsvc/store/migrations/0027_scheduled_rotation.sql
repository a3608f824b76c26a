-- A rotation that was asked for by hand waits until the next key has been published for long enough.
-- STOP OLDER REPLICAS FIRST: they would let a key sign at once. Nothing has been released yet.

-- Of the active key: since when it is to be replaced. NULL if nobody has asked for it.
ALTER TABLE signing_keys ADD COLUMN rotate_request_time timestamptz;
