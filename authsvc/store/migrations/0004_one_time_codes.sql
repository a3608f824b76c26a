-- Codes that were sent, or made for nobody so that a request looks alike for unknown addresses.

CREATE TABLE one_time_codes (
    code_id          uuid PRIMARY KEY,
    purpose          text NOT NULL CHECK (purpose IN
        ('verify_email', 'login', 'reset_password', 'change_email')),
    -- The address that the code was made for, in its canonical form.
    email_canonical  text NOT NULL,
    -- NULL: no account has the address, and no code will match.
    user_id          uuid REFERENCES users ON DELETE CASCADE,
    -- HMAC of code_id, purpose, address and code.
    code_hash        bytea NOT NULL,
    attempts         integer NOT NULL DEFAULT 0,
    create_time      timestamptz NOT NULL,
    expire_time      timestamptz NOT NULL
);
CREATE INDEX one_time_codes_of_address ON one_time_codes (email_canonical, purpose);
CREATE INDEX one_time_codes_of_user ON one_time_codes (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX one_time_codes_expire_time ON one_time_codes (expire_time);
