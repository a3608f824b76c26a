-- How often each client network has tried a one-time code, so that one network's wrong tries don't use
-- up the code for its owner. Safe beside the previous version, which counts all tries together.

-- The number of tries by keyed hash of the network; `attempts` stays the number in all.
ALTER TABLE one_time_codes ADD COLUMN network_attempts jsonb NOT NULL DEFAULT '{}';
