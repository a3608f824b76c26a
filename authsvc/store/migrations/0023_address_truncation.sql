-- Addresses are truncated to their networks after a while. Safe beside the previous version, which
-- doesn't use what is added or removed here.

DROP TABLE address_truncations;

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
