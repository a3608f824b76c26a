-- Codes that were sent, or made for nobody so that a request looks alike for unknown addresses.

CREATE TABLE one_time_codes (
    code_id          uuid PRIMARY KEY,
    purpose          text NOT NULL CHECK (purpose IN
        ('verify_email', 'login', 'reset_password', 'change_email')),
    -- The address that the code was made for, in its canonical form.
    email_canonical  text NOT NULL,
    -- Whose code it is; NULL: no account has the address, and no code will match.
    user_id          uuid REFERENCES users ON DELETE CASCADE,
    -- SHA-256 of code_id and of the HMAC of purpose, address and code.
    code_hash        bytea NOT NULL,
    attempts         integer NOT NULL DEFAULT 0,
    create_time      timestamptz NOT NULL,
    expire_time      timestamptz NOT NULL,
    -- NULL: not used yet.
    use_time         timestamptz
);
-- A newer code replaces the one before of the same purpose, address and user.
CREATE UNIQUE INDEX one_time_codes_of_address
    ON one_time_codes (email_canonical, purpose, user_id) NULLS NOT DISTINCT;
CREATE INDEX one_time_codes_of_user ON one_time_codes (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX one_time_codes_expire_time ON one_time_codes (expire_time);
