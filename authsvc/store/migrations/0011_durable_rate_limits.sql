-- Limits that survive a crash, and keys whose row somebody holds. Stop older replicas first.
--
-- The counts of before are dropped: every key starts unused, as after a crash until now.
--
-- A limit is durable or not. Both kinds are partitions of one table, so that a check of both is
-- one statement: a logged one, and an unlogged one, which a crash or a failover empties.
--
-- Durable charges and refunds set synchronous_commit to off for their transaction, which has to be
-- theirs alone: it commits without waiting for the flush of its log, so that a crash or failover
-- loses less than a second of them and never all. A SET clause of a function would end before the
-- commit.
--
-- The functions below wait at most 50 ms for a row and then fail with lock_not_available: the
-- caller asks rate_limit_held which keys are held, and goes on without these.

DROP FUNCTION rate_limit_charge, rate_limit_look, rate_limit_charge_together, rate_limit_refund;
DROP TABLE rate_limits;

CREATE TABLE rate_limits (
    durable        boolean NOT NULL,
    policy         text COLLATE "C" NOT NULL,
    key            text COLLATE "C" NOT NULL,
    -- What the statement that touched the row last did: see rate_limit_charge.
    kind           integer NOT NULL,
    state          rate_limit_state,
    -- Minutes, so that a key in constant use changes it, and with it the index, once a minute only.
    expire_minute  integer NOT NULL GENERATED ALWAYS AS
        (coalesce((state).expire_us / 60000000 + 1, 0)::integer) STORED,
    PRIMARY KEY (policy, key, durable)
) PARTITION BY LIST (durable);
CREATE TABLE rate_limits_durable PARTITION OF rate_limits FOR VALUES IN (true)
    WITH (fillfactor = 50);
CREATE UNLOGGED TABLE rate_limits_unlogged PARTITION OF rate_limits FOR VALUES IN (false)
    WITH (fillfactor = 50);
CREATE INDEX rate_limits_expire_minute ON rate_limits (expire_minute);

-- Decides on charges of different keys, each on its own. Charge i is of `keys[i]` and of the kind
-- `kinds[i]`, a place in the arrays before: a policy, a cost, and up to how many times to take it.
-- Returns a row for each, in their order. The keys come sorted by policy and key (as bytes):
-- statements that lock rows in one order can't deadlock.
CREATE FUNCTION rate_limit_charge(
    durables boolean[], policies text[], algorithms text[], requests bigint[],
    windows_us bigint[], bursts bigint[], costs bigint[], counts bigint[], kinds integer[],
    keys text[], at_us bigint
) RETURNS TABLE (granted bigint, remaining bigint, retry_us bigint, reset_us bigint)
LANGUAGE plpgsql SET lock_timeout = '50ms' AS $$
DECLARE
    now_us        bigint := rate_limit_now(at_us);
    -- The state after the first charge of each kind, which is the same for every new key.
    first_states  rate_limit_state[];
BEGIN
    IF true = ANY (durables) THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    FOR i IN 1..cardinality(policies) LOOP
        first_states[i] := rate_limit_decide(
            NULL, algorithms[i], requests[i], windows_us[i], bursts[i], costs[i], counts[i], now_us);
    END LOOP;
    RETURN QUERY
    INSERT INTO rate_limits AS r (durable, policy, key, kind, state)
    SELECT durables[c.kind], policies[c.kind], c.key, c.kind, first_states[c.kind]
    FROM unnest(kinds, keys) AS c (kind, key)
    ON CONFLICT (policy, key, durable) DO UPDATE SET
        kind = excluded.kind,
        state = rate_limit_decide(
            r.state, algorithms[excluded.kind], requests[excluded.kind], windows_us[excluded.kind],
            bursts[excluded.kind], costs[excluded.kind], counts[excluded.kind], now_us)
    RETURNING (r.state).granted, (r.state).remaining,
        (r.state).fit_us - now_us, (r.state).expire_us - now_us;
END
$$;

-- Looks at keys, each under the policy and for the cost in the same place of the arrays; takes
-- nothing. Returns a row for each, in their order. A charge fits if retry_us is 0. The plan is made
-- once and must not count on a table that is small when it is made.
CREATE FUNCTION rate_limit_look(
    durables boolean[], policies text[], algorithms text[], requests bigint[],
    windows_us bigint[], bursts bigint[], costs bigint[], keys text[], at_us bigint
) RETURNS TABLE (granted bigint, remaining bigint, retry_us bigint, reset_us bigint)
LANGUAGE plpgsql STABLE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    now_us bigint := rate_limit_now(at_us);
BEGIN
    RETURN QUERY
    SELECT (l.state).granted, (l.state).remaining,
        (l.state).fit_us - now_us, (l.state).expire_us - now_us
    FROM (
        SELECT rate_limit_decide(
            (SELECT r.state FROM rate_limits AS r
             WHERE r.policy = c.policy AND r.key = c.key AND r.durable = c.durable),
            c.algorithm, c.requests, c.window_us, c.burst, c.cost, 0, now_us) AS state
        FROM unnest(durables, policies, algorithms, requests, windows_us, bursts, costs, keys)
            AS c (durable, policy, algorithm, requests, window_us, burst, cost, key)
        OFFSET 0
    ) AS l;
END
$$;

-- Decides on checks, one after the other: takes all charges of a check, or none if one of them does
-- not fit. `policies`, `keys` and `durables` say what is charged at all, sorted as for
-- rate_limit_charge. Charge i is of the pair number `places[i]`; the first `sizes[1]` charges are
-- the first check's, and so on. Returns a row for each charge, in their order; none of a check's is
-- granted, or each is.
CREATE FUNCTION rate_limit_charge_together(
    durables boolean[], policies text[], keys text[], places integer[], algorithms text[],
    requests bigint[], windows_us bigint[], bursts bigint[], costs bigint[], sizes integer[],
    at_us bigint
) RETURNS TABLE (granted bigint, remaining bigint, retry_us bigint, reset_us bigint)
LANGUAGE plpgsql SET lock_timeout = '50ms' AS $$
DECLARE
    now_us   bigint := rate_limit_now(at_us);
    states   rate_limit_state[];
    changed  boolean[] := array_fill(false, ARRAY[cardinality(keys)]);
    decided  rate_limit_state[];
    state    rate_limit_state;
    size     integer;
    a        integer := 1;
    fits     boolean;
BEGIN
    IF true = ANY (durables) THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    WITH locked AS (
        INSERT INTO rate_limits AS r (durable, policy, key, kind)
        SELECT c.durable, c.policy, c.key, 0
        FROM unnest(durables, policies, keys) AS c (durable, policy, key)
        ON CONFLICT (policy, key, durable) DO UPDATE SET kind = excluded.kind
        RETURNING r.state
    )
    SELECT array_agg(l.state) INTO states FROM locked AS l;

    FOREACH size IN ARRAY sizes LOOP
        fits := true;
        FOR i IN a..a + size - 1 LOOP
            state := rate_limit_decide(states[places[i]], algorithms[i], requests[i],
                windows_us[i], bursts[i], costs[i], 1, now_us);
            decided[i] := state;
            fits := fits AND state.granted = 1;
        END LOOP;
        FOR i IN a..a + size - 1 LOOP
            IF fits THEN
                state := decided[i];
                states[places[i]] := state;
                changed[places[i]] := true;
            ELSE
                state := rate_limit_decide(states[places[i]], algorithms[i], requests[i],
                    windows_us[i], bursts[i], costs[i], 0, now_us);
            END IF;
            granted := state.granted;
            remaining := state.remaining;
            retry_us := state.fit_us - now_us;
            reset_us := state.expire_us - now_us;
            RETURN NEXT;
        END LOOP;
        a := a + size;
    END LOOP;

    INSERT INTO rate_limits AS r (durable, policy, key, kind)
    SELECT c.durable, c.policy, c.key, c.place
    FROM unnest(durables, policies, keys, changed) WITH ORDINALITY
        AS c (durable, policy, key, changed, place)
    WHERE c.changed
    ON CONFLICT (policy, key, durable) DO UPDATE SET state = states[excluded.kind];
END
$$;

-- Gives `cost` back, never more than is in use, and returns how the key stands then.
CREATE FUNCTION rate_limit_refund(
    is_durable boolean, policy_name text, algorithm text, requests bigint, window_us bigint,
    burst bigint, cost bigint, key_text text, at_us bigint
) RETURNS TABLE (granted bigint, remaining bigint, retry_us bigint, reset_us bigint)
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET lock_timeout = '50ms' AS $$
DECLARE
    now_us bigint := rate_limit_now(at_us);
BEGIN
    IF is_durable THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    UPDATE rate_limits AS r
    SET state = rate_limit_decide(
        r.state, algorithm, requests, window_us, burst, cost, -1, now_us)
    WHERE r.policy = policy_name AND r.key = key_text AND r.durable = is_durable;
    RETURN QUERY SELECT l.* FROM rate_limit_look(ARRAY[is_durable], ARRAY[policy_name],
        ARRAY[algorithm], ARRAY[requests], ARRAY[window_us], ARRAY[burst], ARRAY[1::bigint],
        ARRAY[key_text], now_us) AS l;
END
$$;

-- Forgets what the key has used.
CREATE FUNCTION rate_limit_reset(is_durable boolean, policy_name text, key_text text) RETURNS void
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET lock_timeout = '50ms' AS $$
BEGIN
    DELETE FROM rate_limits AS r
    WHERE r.policy = policy_name AND r.key = key_text AND r.durable = is_durable;
END
$$;

-- Returns the places of those keys whose row another transaction holds right now: has locked or
-- changed, has deleted, or has inserted, without having ended yet.
CREATE FUNCTION rate_limit_held(durables boolean[], policies text[], keys text[])
RETURNS SETOF integer LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET lock_timeout = '1ms' AS $$
BEGIN
    -- Fails here, not at each key, if somebody holds the whole table.
    LOCK TABLE rate_limits IN ROW EXCLUSIVE MODE;
    FOR i IN 1..cardinality(keys) LOOP
        BEGIN
            PERFORM FROM rate_limits AS r
            WHERE r.policy = policies[i] AND r.key = keys[i] AND r.durable = durables[i]
            FOR UPDATE NOWAIT;
            IF NOT FOUND THEN
                INSERT INTO rate_limits (durable, policy, key, kind)
                VALUES (durables[i], policies[i], keys[i], 0)
                ON CONFLICT DO NOTHING;
            END IF;
            -- Undoes this block, so that no row stays behind, or locked while the next is tried.
            RAISE SQLSTATE 'AU001';
        EXCEPTION
            WHEN lock_not_available THEN RETURN NEXT i;
            WHEN SQLSTATE 'AU001' THEN NULL;
        END;
    END LOOP;
END
$$;
