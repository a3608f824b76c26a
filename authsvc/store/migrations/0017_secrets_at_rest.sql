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

-- Addresses are truncated in place: the network is stored instead of the host.
CREATE FUNCTION is_whole_address(address inet) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT masklen(address) = CASE family(address) WHEN 4 THEN 32 ELSE 128 END
$$;
CREATE FUNCTION truncated_address(address inet) RETURNS inet
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT network(set_masklen(address, CASE family(address) WHEN 4 THEN 24 ELSE 48 END))::inet
$$;
CREATE INDEX sessions_whole_address ON sessions (create_time)
    WHERE is_whole_address(ip) OR is_whole_address(other_ip);

-- The last audit event whose address has been truncated: those before it are not read again. An index
-- like that of sessions would make every event dearer.
CREATE TABLE address_truncation (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    event_id  uuid NOT NULL
);
INSERT INTO address_truncation (event_id) VALUES ('00000000-0000-0000-0000-000000000000');
