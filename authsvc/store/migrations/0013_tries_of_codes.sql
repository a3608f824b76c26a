-- How often each client network has tried a one-time code, so that one network's wrong tries don't use
-- up the code for its owner; and several login codes for one address. Stop older replicas first.

-- The number of tries by keyed hash of the network; `attempts` stays the number in all.
ALTER TABLE one_time_codes ADD COLUMN network_attempts jsonb NOT NULL DEFAULT '{}';

-- Rows that are written in place of an account's or a code's that doesn't exist, so that an attempt
-- takes the same time. Many, by a hash of the address, so that attempts don't wait for one another.
CREATE TABLE decoys (
    slot      smallint PRIMARY KEY,
    attempts  bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
INSERT INTO decoys (slot) SELECT generate_series(0, 255);

-- A login code belongs to the challenge that its request answered, and only one's own is of use. So each
-- request makes a code of its own: replacing the one before would let a stranger's request end the
-- owner's login. Older replicas can't issue codes without the former index.
CREATE UNIQUE INDEX one_time_codes_replaced
    ON one_time_codes (email_canonical, purpose, user_id) NULLS NOT DISTINCT WHERE purpose <> 'login';
CREATE INDEX one_time_codes_by_address ON one_time_codes (email_canonical, purpose, user_id);
DROP INDEX one_time_codes_of_address;
