-- Users' identities at other providers, and logins there that are under way.

CREATE TABLE identities (
    provider       text NOT NULL,
    -- The user's id at the provider: identities are never told apart by address (ASVS 6.8.1).
    subject        text NOT NULL,
    user_id        uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    email          text NOT NULL DEFAULT '',
    create_time    timestamptz NOT NULL,
    last_use_time  timestamptz NOT NULL,
    PRIMARY KEY (provider, subject)
);
CREATE INDEX identities_of_user ON identities (user_id);

CREATE TABLE oauth_states (
    -- SHA-256 of the state, which is not stored.
    state_hash       bytea PRIMARY KEY,
    provider         text NOT NULL,
    redirect_uri     text NOT NULL,
    -- The PKCE verifier and the nonce, sealed.
    sealed_verifier  bytea NOT NULL,
    -- The session whose user links the identity; NULL: a login. If it ends, nothing is linked.
    link_session_id  uuid REFERENCES sessions ON DELETE CASCADE,
    create_time      timestamptz NOT NULL,
    expire_time      timestamptz NOT NULL
);
CREATE INDEX oauth_states_expire_time ON oauth_states (expire_time);
CREATE INDEX oauth_states_of_session ON oauth_states (link_session_id)
    WHERE link_session_id IS NOT NULL;
