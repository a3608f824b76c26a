-- Audit events are followed as revocations are: by the snapshots of their transactions.
-- STOP OLDER REPLICAS FIRST: this adds a column to the table that every call writes to, and an index
-- to each of its partitions. Nothing has been released yet.

-- 0 precedes every transaction: events from before are listed, but not followed.
ALTER TABLE audit_events ADD COLUMN transaction_id xid8 NOT NULL DEFAULT '0';
ALTER TABLE audit_events ALTER COLUMN transaction_id SET DEFAULT pg_current_xact_id();
CREATE INDEX audit_events_transaction_id ON audit_events (transaction_id, event_id);

-- How far audit events have been forwarded, for each target. Only the replica that holds the claim
-- forwards; the position is stored after the target has confirmed, so what is sent again after a
-- crash has the same event ids.
CREATE TABLE audit_forwards (
    target        text PRIMARY KEY,
    holder_id     uuid NOT NULL,
    claim_until   timestamptz NOT NULL,
    -- NULL while a time span is forwarded, because the server's run has ended.
    position      text,
    -- Every event that was committed before this time has been forwarded.
    forward_time  timestamptz NOT NULL
);
