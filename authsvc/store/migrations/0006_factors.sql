-- Second factors, recovery codes, and logins that wait for one.

CREATE TABLE factors (
    factor_id      uuid PRIMARY KEY,
    user_id        uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    kind           text NOT NULL CHECK (kind IN ('totp', 'passkey')),
    name           text NOT NULL DEFAULT '',
    create_time    timestamptz NOT NULL,
    -- NULL: not confirmed yet, so it doesn't count.
    confirm_time   timestamptz,
    last_use_time  timestamptz,
    -- TOTP: the seed, sealed, and the last time step that was accepted (RFC 6238, section 5.2).
    sealed_seed    bytea,
    last_step      bigint,
    -- Passkeys (WebAuthn).
    credential_id  bytea UNIQUE,
    public_key     bytea,
    sign_count     bigint,
    transports     text[],
    CHECK (kind <> 'totp' OR sealed_seed IS NOT NULL),
    CHECK (kind <> 'passkey' OR (credential_id IS NOT NULL AND public_key IS NOT NULL
                                 AND sign_count IS NOT NULL))
);
CREATE INDEX factors_of_user ON factors (user_id);

CREATE TABLE recovery_codes (
    user_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    -- HMAC of the user and the code.
    code_hash    bytea NOT NULL,
    create_time  timestamptz NOT NULL,
    PRIMARY KEY (user_id, code_hash)
);

-- What was asked of a user and waits for the answer: a second factor, or a passkey's signature.
CREATE TABLE challenges (
    challenge_id  uuid PRIMARY KEY,
    kind          text NOT NULL CHECK (kind IN ('mfa', 'passkey_login', 'passkey_registration')),
    -- NULL: whoever answers is known by the answer, or no account has the address.
    user_id       uuid REFERENCES users ON DELETE CASCADE,
    -- SHA-256 of the secret that the answer has to come with.
    token_hash    bytea UNIQUE,
    -- How the user has logged in so far.
    methods       text[] NOT NULL DEFAULT '{}',
    -- The factor that has to be confirmed to log in; NULL: one that counts already is asked for.
    factor_id     uuid,
    -- The WebAuthn challenge; NULL: none, or used.
    passkey       bytea,
    -- The address that a login by passkey was begun for, whether an account has it or not, sealed;
    -- NULL: for whoever answers.
    sealed_account  bytea,
    attempts      integer NOT NULL DEFAULT 0,
    create_time   timestamptz NOT NULL,
    expire_time   timestamptz NOT NULL
);
CREATE INDEX challenges_of_user ON challenges (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX challenges_expire_time ON challenges (expire_time);
