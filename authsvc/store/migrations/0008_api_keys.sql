-- API keys of users.

CREATE TABLE api_keys (
    key_id         uuid PRIMARY KEY,
    user_id        uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    name           text NOT NULL,
    -- The beginning of the key, to be recognised by.
    prefix         text NOT NULL,
    -- SHA-256 of the key, which is not stored.
    key_hash       bytea NOT NULL UNIQUE,
    scopes         text[] NOT NULL,
    policy         text NOT NULL DEFAULT '',
    create_time    timestamptz NOT NULL,
    expire_time    timestamptz NOT NULL,
    last_use_time  timestamptz,
    revoke_time    timestamptz,
    end_time       timestamptz NOT NULL GENERATED ALWAYS AS
        (least(expire_time, revoke_time)) STORED
);
CREATE INDEX api_keys_of_user ON api_keys (user_id, key_id);
CREATE INDEX api_keys_end_time ON api_keys (end_time);
