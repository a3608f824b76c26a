-- Users, devices, sessions, signing keys, revocations and audit events.
-- Every id is a UUIDv7 made by the service, so that rows sort by their age.

CREATE TABLE users (
    user_id          uuid PRIMARY KEY,
    email            text NOT NULL,
    -- NFKC, IDNA, case folded; compared instead of email.
    email_canonical  text NOT NULL UNIQUE,
    display_name     text NOT NULL DEFAULT '',
    -- The version of the hashing scheme and a PHC string; NULL: the account has no password.
    password_hash    text,
    -- The pepper that password_hash was made with.
    pepper_id        text,
    roles            text[] NOT NULL DEFAULT '{user}',
    status           text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'disabled')),
    -- Consecutive failed logins from devices that never logged in; reset by a success.
    failed_logins    integer NOT NULL DEFAULT 0,
    create_time      timestamptz NOT NULL,
    update_time      timestamptz NOT NULL
);

-- Devices that logged in before: a stranger's failures don't lock these out.
CREATE TABLE devices (
    user_id        uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    -- SHA-256 of the device id that the calling service passed.
    device_hash    bytea NOT NULL,
    failed_logins  integer NOT NULL DEFAULT 0,
    last_use_time  timestamptz NOT NULL,
    PRIMARY KEY (user_id, device_hash)
);
CREATE INDEX devices_last_use_time ON devices (last_use_time);

CREATE TABLE sessions (
    session_id              uuid PRIMARY KEY,
    user_id                 uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    -- SHA-256 of the session token, which is not stored.
    token_hash              bytea NOT NULL UNIQUE,
    -- SHA-256 of the anti-forgery token, which is not stored.
    csrf_hash               bytea NOT NULL,
    create_time             timestamptz NOT NULL,
    last_use_time           timestamptz NOT NULL,
    authentication_time     timestamptz NOT NULL,
    idle_expire_time        timestamptz NOT NULL,
    absolute_expire_time    timestamptz NOT NULL,
    ip                      inet,
    user_agent              text NOT NULL DEFAULT '',
    device_id               text NOT NULL DEFAULT '',
    authentication_methods  text[] NOT NULL,
    -- The number of the one refresh token that is current.
    refresh_counter         bigint NOT NULL DEFAULT 0,
    -- When refresh_counter was last advanced: the grace window starts here.
    refresh_time            timestamptz NOT NULL,
    revoke_time             timestamptz,
    revoke_reason           text,
    end_time                timestamptz NOT NULL GENERATED ALWAYS AS
        (least(idle_expire_time, absolute_expire_time, revoke_time)) STORED,
    CHECK ((revoke_time IS NULL) = (revoke_reason IS NULL))
) WITH (fillfactor = 80);
CREATE INDEX sessions_of_user ON sessions (user_id, session_id) WHERE revoke_time IS NULL;
CREATE INDEX sessions_end_time ON sessions (end_time);

CREATE TABLE signing_keys (
    key_id           text PRIMARY KEY,
    algorithm        text NOT NULL,
    state            text NOT NULL CHECK (state IN ('prepared', 'active', 'retired', 'revoked')),
    -- The private key, sealed under the keyring of the settings.
    sealed_key       bytea NOT NULL,
    create_time      timestamptz NOT NULL,
    activate_time    timestamptz,
    retire_time      timestamptz,
    revoke_time      timestamptz,
    -- Until when a retired key verifies.
    expire_time      timestamptz
);
CREATE UNIQUE INDEX signing_keys_one_active ON signing_keys ((true)) WHERE state = 'active';
CREATE UNIQUE INDEX signing_keys_one_prepared ON signing_keys ((true)) WHERE state = 'prepared';

-- What must no longer be accepted, in the order in which it was said. A row commits later than its
-- id was drawn: a reader that follows by id alone can miss rows, so transaction_id is kept.
CREATE TABLE revocations (
    revocation_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction_id  xid8 NOT NULL DEFAULT pg_current_xact_id(),
    session_id      uuid,
    user_id         uuid,
    key_id          text,
    revoke_time     timestamptz NOT NULL,
    CHECK (num_nonnulls(session_id, user_id, key_id) = 1)
);
CREATE INDEX revocations_revoke_time ON revocations (revoke_time);

-- Tells every replica within the transaction that revokes; delivered when it commits.
CREATE FUNCTION notify_revocation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('authsvc_revocations', concat_ws(':',
        CASE WHEN NEW.session_id IS NOT NULL THEN 'session'
             WHEN NEW.user_id IS NOT NULL THEN 'user'
             ELSE 'key' END,
        coalesce(NEW.session_id::text, NEW.user_id::text, NEW.key_id)));
    RETURN NULL;
END $$;
CREATE TRIGGER revocations_notify AFTER INSERT ON revocations
    FOR EACH ROW EXECUTE FUNCTION notify_revocation();

-- What happened, who called, for whom, from where. Append-only.
CREATE TABLE audit_events (
    event_id     uuid NOT NULL,
    occur_time   timestamptz NOT NULL,
    type         text NOT NULL,
    -- The calling service's identity, or "cli" or "system".
    caller       text NOT NULL,
    request_id   text NOT NULL,
    user_id      uuid,
    session_id   uuid,
    ip           inet,
    user_agent   text NOT NULL DEFAULT '',
    detail       jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (event_id, occur_time)
) PARTITION BY RANGE (occur_time);
CREATE INDEX audit_events_of_user ON audit_events (user_id, occur_time) WHERE user_id IS NOT NULL;
CREATE TABLE audit_events_default PARTITION OF audit_events DEFAULT;
-- In UTC, whatever the session's time zone: retention drops months by their names.
DO $$
DECLARE
    month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
BEGIN
    FOR _ IN 0..119 LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF audit_events FOR VALUES FROM (%L) TO (%L)',
            'audit_events_' || to_char(month, 'YYYY_MM'),
            month AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC');
        month := month + interval '1 month';
    END LOOP;
END $$;
