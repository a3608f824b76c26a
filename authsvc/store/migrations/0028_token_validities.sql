-- How long issued tokens are valid, as lifetimes are settings: after one was lowered, tokens with the
-- longer one are around for a while. Replicas of the version before don't know of it; what they issue
-- is assumed to be valid as long as by the present settings, as before.
CREATE TABLE token_validities (
    validity interval PRIMARY KEY,
    -- By when a replica last issued tokens that are valid so long.
    use_time timestamptz NOT NULL
);
