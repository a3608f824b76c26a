-- What every way to log in needs: proved addresses, second factors, trusted devices.

ALTER TABLE users ADD COLUMN email_verify_time timestamptz;
-- Whether any row of factors of this user counts; kept by whoever changes these, so that a login
-- needs no look-up for it.
ALTER TABLE users ADD COLUMN has_second_factor boolean NOT NULL DEFAULT false;

-- Until when no second factor is asked for from this device.
ALTER TABLE devices ADD COLUMN trust_expire_time timestamptz;

ALTER TABLE revocations ADD COLUMN api_key_id uuid;
ALTER TABLE revocations DROP CONSTRAINT revocations_check;
ALTER TABLE revocations ADD CONSTRAINT revocations_one_thing
    CHECK (num_nonnulls(session_id, user_id, key_id, api_key_id) = 1);

CREATE OR REPLACE FUNCTION notify_revocation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('authsvc_revocations', concat_ws(':',
        CASE WHEN NEW.session_id IS NOT NULL THEN 'session'
             WHEN NEW.user_id IS NOT NULL THEN 'user'
             WHEN NEW.api_key_id IS NOT NULL THEN 'api_key'
             ELSE 'key' END,
        coalesce(NEW.session_id::text, NEW.user_id::text, NEW.api_key_id::text, NEW.key_id)));
    RETURN NULL;
END $$;

-- Those that ended too: whoever erases an account, or takes the own data along, reads them all.
CREATE INDEX sessions_of_owner ON sessions (user_id, session_id);
