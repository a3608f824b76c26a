-- What operators need to look after users: receipts of requests that create something.

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
