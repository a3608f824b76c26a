-- Revocations are read from their log, and notifications are sent after the commit.
-- STOP OLDER REPLICAS FIRST: they learn of revocations and of new messages by the notifications that
-- these triggers sent. Nothing has been released yet.

-- A transaction that notifies holds a lock of the whole server until its flush.
DROP TRIGGER revocations_notify ON revocations;
DROP FUNCTION notify_revocation();
DROP TRIGGER outbox_notify ON outbox;
DROP FUNCTION notify_outbox();

CREATE INDEX revocations_transaction_id ON revocations (transaction_id);

-- Names an uninterrupted run of the server, within which transaction ids only grow. A crash may give
-- the ids of unflushed transactions out again; it empties this table, as it is unlogged, and so does
-- a promotion or the restoration of a base backup.
CREATE UNLOGGED TABLE server_runs (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    run_id    uuid NOT NULL
);

-- Returns the id of the current run, and makes one if there is none.
CREATE FUNCTION server_run() RETURNS uuid LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    found_id uuid;
BEGIN
    SELECT run_id INTO found_id FROM server_runs;
    IF found_id IS NULL THEN
        INSERT INTO server_runs (run_id) VALUES (gen_random_uuid()) ON CONFLICT DO NOTHING;
        SELECT run_id INTO found_id FROM server_runs;
    END IF;
    RETURN found_id;
END $$;

-- Fails unless this server is a writable primary on this timeline (NULL: on any). For statements whose
-- answer must not come from a server that was replaced: behind a pooler, the server can change under
-- an open connection.
CREATE FUNCTION require_primary(known_timeline text) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE read_only_sql_transaction USING MESSAGE = 'the server is in recovery';
    ELSIF current_setting('transaction_read_only')::boolean THEN
        RAISE read_only_sql_transaction USING MESSAGE = 'the server is read-only';
    ELSIF left(pg_walfile_name(pg_current_wal_lsn()), 8) <> known_timeline THEN
        RAISE read_only_sql_transaction USING MESSAGE = 'the server is on another timeline';
    END IF;
    RETURN true;
END $$;
