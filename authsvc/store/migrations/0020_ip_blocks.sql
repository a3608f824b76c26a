-- Blocks of addresses: who may not log in from where, and until when.

-- A row is the newest block of its network. To unblock is to let it end now, so that whoever reads
-- what has changed learns of that, too; ended rows are removed later.
CREATE TABLE ip_blocks (
    network         cidr PRIMARY KEY,
    reason          text NOT NULL,
    -- The calling service or operator; the service's own name if `automatic`.
    blocked_by      text NOT NULL,
    automatic       boolean NOT NULL,
    create_time     timestamptz NOT NULL,
    -- NULL: until somebody unblocks it.
    expire_time     timestamptz,
    -- Of the last change. Replicas read what has changed by it, as they read the revocation log.
    transaction_id  xid8 NOT NULL DEFAULT pg_current_xact_id(),
    -- Orders the rows of a transaction.
    block_id        bigint NOT NULL GENERATED ALWAYS AS IDENTITY
);
CREATE INDEX ip_blocks_transaction_id ON ip_blocks (transaction_id, block_id);
CREATE INDEX ip_blocks_expire_time ON ip_blocks (expire_time);

-- The network itself and all that contain it, for look-ups by key: 33 or 129 at most.
CREATE FUNCTION ip_supernets(part inet) RETURNS cidr[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT array_agg(network(set_masklen(part, length)))
    FROM generate_series(0, masklen(part)) AS length
$$;
