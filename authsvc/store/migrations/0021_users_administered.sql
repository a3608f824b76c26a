-- What operators need to look after users: lists by each filter, passwords that have to be changed, and
-- receipts of requests that create something. Safe beside the previous version's code, except that it
-- lets passwords that have to be changed log in: stop older replicas before the first is marked.

-- What a create request with a request_id made, so that the same request again is answered with it.
CREATE TABLE request_receipts (
    request_id   uuid PRIMARY KEY,
    -- A keyed hash of the whole request: another request with the same id is refused.
    fingerprint  bytea NOT NULL,
    -- The id of what was made.
    made         text NOT NULL,
    create_time  timestamptz NOT NULL
);
CREATE INDEX request_receipts_create_time ON request_receipts (create_time);

-- Whether the password opens no session until it has been changed.
ALTER TABLE users ADD COLUMN password_change_required boolean NOT NULL DEFAULT false;

-- The lists of users: each filter has an index in the order of its list, which a page continues.
CREATE INDEX users_by_address ON users (email_canonical COLLATE "C");
CREATE INDEX users_by_status ON users (status, user_id);
CREATE INDEX users_by_verification ON users ((email_verify_time IS NOT NULL), user_id);
CREATE INDEX users_by_creation ON users (create_time, user_id);
CREATE INDEX users_by_last_login ON users (last_login_time, user_id);
CREATE INDEX identities_by_provider ON identities (provider, user_id);

-- users.roles, a row for each role, as no index of an array keeps its rows in order.
CREATE TABLE user_roles (
    role     text NOT NULL,
    user_id  uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    PRIMARY KEY (role, user_id)
);
CREATE INDEX user_roles_of_user ON user_roles (user_id);
INSERT INTO user_roles (role, user_id) SELECT DISTINCT unnest(roles), user_id FROM users;

-- By statement, as an import inserts a thousand users with one.
CREATE FUNCTION add_user_roles() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO user_roles (role, user_id) SELECT DISTINCT unnest(roles), user_id FROM added;
    RETURN NULL;
END $$;
CREATE TRIGGER users_roles_added AFTER INSERT ON users
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION add_user_roles();

CREATE FUNCTION replace_user_roles() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM user_roles WHERE user_id = NEW.user_id AND role <> ALL (NEW.roles);
    INSERT INTO user_roles (role, user_id) SELECT DISTINCT unnest(NEW.roles), NEW.user_id
        ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER users_roles_changed AFTER UPDATE OF roles ON users
    FOR EACH ROW WHEN (OLD.roles IS DISTINCT FROM NEW.roles) EXECUTE FUNCTION replace_user_roles();
