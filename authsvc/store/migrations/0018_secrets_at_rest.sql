-- What each key still protects, and how far addresses have been truncated. Stop older replicas first:
-- the recovery codes that they make would count as made with an unknown key.

-- The public beginning of a sealed value: its version, and the id of its key after its length.
CREATE FUNCTION sealed_header(sealed bytea) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN octet_length(sealed) < 2 THEN sealed
        ELSE substring(sealed FROM 1 FOR 2 + get_byte(sealed, 1)) END
$$;

-- For the check at every start that no key or pepper in use is missing.
CREATE INDEX factors_sealed_header ON factors (sealed_header(sealed_seed))
    WHERE sealed_seed IS NOT NULL;
CREATE INDEX users_pepper_id ON users (pepper_id) WHERE pepper_id IS NOT NULL;

-- The key of the keyring that code_hash was made with; NULL: unknown, as the code is older than this
-- column.
ALTER TABLE recovery_codes ADD COLUMN key_id text;

-- Up to when the addresses of a kind have been truncated, so that old rows are not read again.
CREATE TABLE address_truncations (
    kind           text PRIMARY KEY,
    truncate_time  timestamptz NOT NULL
);
