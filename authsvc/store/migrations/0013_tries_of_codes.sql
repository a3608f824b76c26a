-- How often each client network has tried a one-time code, so that one network's wrong tries don't use
-- up the code for its owner. Safe beside the previous version, which counts all tries together.

-- The number of tries by keyed hash of the network; `attempts` stays the number in all.
ALTER TABLE one_time_codes ADD COLUMN network_attempts jsonb NOT NULL DEFAULT '{}';

-- Rows that are written in place of an account's or a code's that doesn't exist, so that an attempt
-- takes the same time. Many, by a hash of the address, so that attempts don't wait for one another.
CREATE TABLE decoys (
    slot      smallint PRIMARY KEY,
    attempts  bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
INSERT INTO decoys (slot) SELECT generate_series(0, 255);
