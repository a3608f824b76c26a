-- Since when each key of the keyring and each pepper has been in use, so that somebody can be told when
-- one is old. Replicas of the version before don't know of it, and need not.
CREATE TABLE key_first_uses (
    kind            text NOT NULL CHECK (kind IN ('keyring', 'pepper')),
    key_id          text NOT NULL,
    first_use_time  timestamptz NOT NULL,
    PRIMARY KEY (kind, key_id)
);
