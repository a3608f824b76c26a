-- Public keys of sessions. Safe beside the previous version, which doesn't know the table.

CREATE TABLE session_keys (
    session_key_id  uuid PRIMARY KEY,
    session_id      uuid NOT NULL REFERENCES sessions ON DELETE CASCADE,
    purpose         text NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('jwk', 'dtls_fingerprint')),
    -- In the one canonical form of its kind, at most about 800 bytes. Never a private key.
    public_key      text NOT NULL,
    create_time     timestamptz NOT NULL,
    expire_time     timestamptz NOT NULL,
    UNIQUE (session_id, purpose, public_key)
);
CREATE INDEX session_keys_expire_time ON session_keys (expire_time);
