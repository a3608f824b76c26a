-- Messages to users, written in the transaction that they tell of and delivered afterwards.

CREATE TABLE outbox (
    message_id      uuid PRIMARY KEY,
    kind            text NOT NULL,
    user_id         uuid REFERENCES users ON DELETE CASCADE,
    -- The stored address of the account when the message was written, and what is told, sealed.
    sealed_content  bytea NOT NULL,
    state           text NOT NULL DEFAULT 'pending'
        -- A decoy is written where nobody is told, so that it takes the same work.
        CHECK (state IN ('pending', 'sent', 'abandoned', 'decoy')),
    attempts        integer NOT NULL DEFAULT 0,
    create_time     timestamptz NOT NULL,
    -- When to try next, or until when the replica that is trying has it to itself.
    next_time       timestamptz NOT NULL,
    -- After this it is of no use, as its code has expired.
    expire_time     timestamptz NOT NULL,
    end_time        timestamptz,
    -- Why the last attempt failed, in a word; never what a server answered.
    last_error      text NOT NULL DEFAULT ''
);
CREATE INDEX outbox_next ON outbox (next_time) WHERE state = 'pending';
CREATE INDEX outbox_end_time ON outbox (end_time) WHERE end_time IS NOT NULL;
CREATE INDEX outbox_abandoned ON outbox (create_time) WHERE state = 'abandoned';
CREATE INDEX outbox_of_user ON outbox (user_id);

CREATE FUNCTION notify_outbox() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('authsvc_outbox', '');
    RETURN NULL;
END $$;
CREATE TRIGGER outbox_notify AFTER INSERT ON outbox
    FOR EACH STATEMENT EXECUTE FUNCTION notify_outbox();
