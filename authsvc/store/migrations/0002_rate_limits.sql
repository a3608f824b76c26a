-- How much each key has used of each policy, and the arithmetic that decides and charges.
--
-- Times are microseconds since the epoch. The policy's numbers are passed with each call, so that
-- a changed policy holds from the next charge on. All arithmetic is on integers and exact.

-- What a key has used, and the answer to its last charge, as RETURNING sees nothing but the row.
CREATE TYPE rate_limit_state AS (
    -- How many of the equal charges were granted, and how much more would have been.
    granted         bigint,
    remaining       bigint,
    -- When another charge of the same cost would fit; not later than the decision: it fits.
    fit_us          bigint,
    -- When all that was used is forgotten.
    expire_us       bigint,
    -- token_bucket: `used` has been draining since then. fixed_window: the window's start.
    -- sliding_window: a time in the newest slot.
    since_us        bigint,
    used            bigint,
    -- The same for the slots of a policy with a burst.
    burst_since_us  bigint,
    -- sliding_window: see rate_limit_slots_advance.
    slots           bigint[],
    burst_slots     bigint[]
);

-- Unlogged: a charge waits for no flush. After a crash of the server everyone starts afresh.
CREATE UNLOGGED TABLE rate_limits (
    policy         text COLLATE "C" NOT NULL,
    key            text COLLATE "C" NOT NULL,
    -- What the statement that touched the row last did: see rate_limit_charge.
    kind           integer NOT NULL,
    state          rate_limit_state,
    -- Minutes, so that a key in constant use changes it, and with it the index, once a minute only.
    expire_minute  integer NOT NULL GENERATED ALWAYS AS
        (coalesce((state).expire_us / 60000000 + 1, 0)::integer) STORED,
    PRIMARY KEY (policy, key)
) WITH (fillfactor = 50);
CREATE INDEX rate_limits_expire_minute ON rate_limits (expire_minute);

-- (a * b + extra) / c, rounded down, where a * b may exceed a bigint.
CREATE FUNCTION rate_limit_muldiv(a bigint, b bigint, c bigint, extra bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN a <= (9223372036854775807 - extra) / b THEN (a * b + extra) / c
        ELSE div(a::numeric * b + extra, c)::bigint
    END
$$;

-- A slotted counter covers the present slot and the 16 before it, so that whatever happened within
-- the last 16 slot lengths is counted: the oldest slot counts fully while part of it is covered.
-- The array holds the running total at each slot's start, oldest first, and last the total now;
-- what was used is the last less the first. Returns it `steps` slots later.
CREATE FUNCTION rate_limit_slots_advance(slots bigint[], steps bigint) RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN steps = 0 THEN slots
        WHEN steps < 17 THEN slots[greatest(1, cardinality(slots) - 17 + steps):]
            || array_fill(slots[cardinality(slots)], ARRAY[steps::integer])
        ELSE '{0,0}'
    END
$$;

CREATE FUNCTION rate_limit_slots_used(slots bigint[]) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT slots[cardinality(slots)] - slots[1]
$$;

CREATE FUNCTION rate_limit_slots_add(slots bigint[], amount bigint) RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT slots[:cardinality(slots) - 1] || slots[cardinality(slots)] + amount
$$;

-- Takes from the oldest slots, so that what was used later never counts for less than it was.
CREATE FUNCTION rate_limit_slots_refund(slots bigint[], amount bigint) RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT array_fill(slots[1] + amount, ARRAY[width_bucket(slots[1] + amount, slots)])
        || slots[width_bucket(slots[1] + amount, slots) + 1:]
$$;

-- How many slots from the present one until no more than `remainder` of it is counted.
CREATE FUNCTION rate_limit_slots_until(slots bigint[], remainder bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT width_bucket(slots[cardinality(slots)] - remainder - 1, slots)::bigint
        + 18 - cardinality(slots)
$$;

-- Decides on `count` equal charges at `now_us`, takes as many as fit, and returns the new state.
-- A count of 0 only looks; -1 gives `cost` back. The burst of the last second is not given back: it
-- counts what came through, and is over in a second anyway. A state of NULL is a key not seen yet.
--
-- Time never runs backwards for a key: a state from ahead of the clock is taken as it is, unless it
-- is from more than a window ahead (a clock was set back since), which would lock the key for long.
--
-- PL/pgSQL prepares each expression that is reached anew in every transaction: hence the branches.
CREATE FUNCTION rate_limit_decide(
    state rate_limit_state, algorithm text, requests bigint, window_us bigint, burst bigint,
    cost bigint, count bigint, now_us bigint
) RETURNS rate_limit_state LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    slot_us     bigint := (window_us + 15) / 16;
    slot        bigint;
    steps       bigint;
    start_us    bigint;
    level       bigint;  -- how much of `requests` is in use
    recent      bigint;  -- how much of `burst` is in use
    amount      bigint;
BEGIN
    IF algorithm = 'token_bucket' THEN
        level := CASE
            WHEN state.since_us > now_us - 2 * window_us AND state.since_us <= now_us + window_us
            THEN state.used - rate_limit_muldiv(
                greatest(now_us - state.since_us, 0), requests, window_us, 0)
            ELSE 0
        END;
        IF level <= 0 OR level > requests THEN
            level := least(greatest(level, 0), requests);
            state.since_us := greatest(now_us,
                CASE WHEN state.since_us <= now_us + window_us THEN state.since_us END);
            state.used := level;
        ELSIF now_us - state.since_us >= window_us THEN
            -- What drains in a window is `requests`: the same, said with smaller numbers.
            state.since_us := state.since_us + window_us;
            state.used := state.used - requests;
        END IF;
    ELSIF algorithm = 'fixed_window' THEN
        start_us := greatest(now_us,
            CASE WHEN state.since_us <= now_us + window_us THEN state.since_us END);
        start_us := start_us - start_us % window_us;
        level := CASE
            WHEN state.since_us >= start_us AND state.since_us <= now_us + window_us
            THEN least(state.used, requests)
            ELSE 0
        END;
        state.since_us := start_us;
        state.used := level;
    ELSE
        steps := CASE
            WHEN state.since_us <= now_us + window_us
            THEN greatest(now_us / slot_us - state.since_us / slot_us, 0)
            ELSE 17
        END;
        -- Slots that don't add up to `used` are from before the policy had another algorithm.
        state.slots := rate_limit_slots_advance(
            CASE
                WHEN rate_limit_slots_used(state.slots) = state.used THEN state.slots
                ELSE ARRAY[0, state.used]
            END, steps);
        IF steps > 0 THEN
            state.since_us := now_us;
        END IF;
        level := rate_limit_slots_used(state.slots);
    END IF;

    IF burst > 0 THEN
        steps := CASE
            WHEN state.burst_since_us <= now_us + 1000000
            THEN greatest(now_us / 62500 - state.burst_since_us / 62500, 0)
            ELSE 17
        END;
        state.burst_slots := rate_limit_slots_advance(state.burst_slots, steps);
        IF steps > 0 THEN
            state.burst_since_us := now_us;
        END IF;
        recent := rate_limit_slots_used(state.burst_slots);
    END IF;

    -- least and greatest ignore NULL: without a burst, `recent` counts for nothing.
    amount := CASE
        WHEN count < 0 THEN -least(cost, level)
        ELSE least(count, greatest(least(requests - level, burst - recent), 0) / cost) * cost
    END;
    level := level + amount;
    recent := recent + greatest(amount, 0);
    state.granted := amount / cost;
    state.remaining := greatest(least(requests - level, burst - recent), 0);

    IF algorithm = 'token_bucket' THEN
        state.used := state.used + amount;
        -- After a refund it may have been over before now.
        state.expire_us := greatest(now_us, state.since_us
            + rate_limit_muldiv(state.used, window_us, requests, requests - 1));
        state.fit_us := CASE
            WHEN level + cost > requests
            THEN state.since_us + rate_limit_muldiv(
                state.used + cost - requests, window_us, requests, requests - 1)
            ELSE now_us
        END;
    ELSIF algorithm = 'fixed_window' THEN
        state.used := level;
        state.expire_us := CASE WHEN level > 0 THEN state.since_us + window_us ELSE now_us END;
        state.fit_us := CASE
            WHEN level + cost > requests THEN state.since_us + window_us
            ELSE now_us
        END;
    ELSE
        state.used := level;
        state.slots := CASE
            WHEN amount < 0 THEN rate_limit_slots_refund(state.slots, -amount)
            ELSE rate_limit_slots_add(state.slots, amount)
        END;
        slot := state.since_us / slot_us;
        state.expire_us := CASE
            WHEN level > 0 THEN (slot + rate_limit_slots_until(state.slots, 0)) * slot_us
            ELSE now_us
        END;
        state.fit_us := CASE
            WHEN level + cost > requests
            THEN (slot + rate_limit_slots_until(state.slots, requests - cost)) * slot_us
            ELSE now_us
        END;
    END IF;

    IF burst > 0 THEN
        state.burst_slots := rate_limit_slots_add(state.burst_slots, greatest(amount, 0));
        slot := state.burst_since_us / 62500;
        IF recent > 0 THEN
            state.expire_us := greatest(state.expire_us,
                (slot + rate_limit_slots_until(state.burst_slots, 0)) * 62500);
        END IF;
        IF recent + cost > burst THEN
            state.fit_us := greatest(state.fit_us,
                (slot + rate_limit_slots_until(state.burst_slots, burst - cost)) * 62500);
        END IF;
    END IF;
    RETURN state;
END
$$;

-- The time in microseconds; at_us is a time made up by a test.
CREATE FUNCTION rate_limit_now(at_us bigint) RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT coalesce(at_us, (extract(epoch FROM statement_timestamp()) * 1000000)::bigint)
$$;

-- Decides on charges of different keys, each on its own. Charge i is of `keys[i]` and of the kind
-- `kinds[i]`, a place in the arrays before: a policy, a cost, and up to how many times to take it.
-- Returns a row for each, in their order. The keys come sorted by policy and key (as bytes):
-- statements that lock rows in one order can't deadlock.
CREATE FUNCTION rate_limit_charge(
    policies text[], algorithms text[], requests bigint[], windows_us bigint[], bursts bigint[],
    costs bigint[], counts bigint[], kinds integer[], keys text[], at_us bigint
) RETURNS TABLE (granted bigint, remaining bigint, retry_us bigint, reset_us bigint)
LANGUAGE plpgsql AS $$
DECLARE
    now_us        bigint := rate_limit_now(at_us);
    -- The state after the first charge of each kind, which is the same for every new key.
    first_states  rate_limit_state[];
BEGIN
    FOR i IN 1..cardinality(policies) LOOP
        first_states[i] := rate_limit_decide(
            NULL, algorithms[i], requests[i], windows_us[i], bursts[i], costs[i], counts[i], now_us);
    END LOOP;
    RETURN QUERY
    INSERT INTO rate_limits AS r (policy, key, kind, state)
    SELECT policies[c.kind], c.key, c.kind, first_states[c.kind]
    FROM unnest(kinds, keys) AS c (kind, key)
    ON CONFLICT (policy, key) DO UPDATE SET
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
    policies text[], algorithms text[], requests bigint[], windows_us bigint[], bursts bigint[],
    costs bigint[], keys text[], at_us bigint
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
            (SELECT r.state FROM rate_limits AS r WHERE r.policy = c.policy AND r.key = c.key),
            c.algorithm, c.requests, c.window_us, c.burst, c.cost, 0, now_us) AS state
        FROM unnest(policies, algorithms, requests, windows_us, bursts, costs, keys)
            AS c (policy, algorithm, requests, window_us, burst, cost, key)
        OFFSET 0
    ) AS l;
END
$$;

-- Decides on checks, one after the other: takes all charges of a check, or none if one of them does
-- not fit. `policies` and `keys` say what is charged at all, sorted as for rate_limit_charge. Charge
-- i is of the pair number `places[i]`; the first `sizes[1]` charges are the first check's, and so
-- on. Returns a row for each charge, in their order; none of a check's is granted, or each is.
CREATE FUNCTION rate_limit_charge_together(
    policies text[], keys text[], places integer[], algorithms text[], requests bigint[],
    windows_us bigint[], bursts bigint[], costs bigint[], sizes integer[], at_us bigint
) RETURNS TABLE (granted bigint, remaining bigint, retry_us bigint, reset_us bigint)
LANGUAGE plpgsql AS $$
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
    WITH locked AS (
        INSERT INTO rate_limits AS r (policy, key, kind)
        SELECT c.policy, c.key, 0 FROM unnest(policies, keys) AS c (policy, key)
        ON CONFLICT (policy, key) DO UPDATE SET kind = excluded.kind
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

    INSERT INTO rate_limits AS r (policy, key, kind)
    SELECT c.policy, c.key, c.place
    FROM unnest(policies, keys, changed) WITH ORDINALITY AS c (policy, key, changed, place)
    WHERE c.changed
    ON CONFLICT (policy, key) DO UPDATE SET state = states[excluded.kind];
END
$$;

-- Gives `cost` back, never more than is in use, and returns how the key stands then.
CREATE FUNCTION rate_limit_refund(
    policy_name text, algorithm text, requests bigint, window_us bigint, burst bigint,
    cost bigint, key_text text, at_us bigint
) RETURNS TABLE (granted bigint, remaining bigint, retry_us bigint, reset_us bigint)
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    now_us bigint := rate_limit_now(at_us);
BEGIN
    UPDATE rate_limits AS r
    SET state = rate_limit_decide(
        r.state, algorithm, requests, window_us, burst, cost, -1, now_us)
    WHERE r.policy = policy_name AND r.key = key_text;
    RETURN QUERY SELECT l.* FROM rate_limit_look(ARRAY[policy_name], ARRAY[algorithm],
        ARRAY[requests], ARRAY[window_us], ARRAY[burst], ARRAY[1::bigint], ARRAY[key_text],
        now_us) AS l;
END
$$;
