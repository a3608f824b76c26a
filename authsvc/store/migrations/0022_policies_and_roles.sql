-- Policies, overrides and roles that administrators define while the service runs. Stop older
-- replicas first.

-- Changed in every transaction that changes the definitions of the topic, which serializes them. Each
-- replica reads these rows several times a second, and the definitions again when one has changed.
CREATE TABLE definition_versions (
    topic    text COLLATE "C" PRIMARY KEY,
    version  uuid NOT NULL
);
INSERT INTO definition_versions (topic, version)
VALUES ('policies', gen_random_uuid()), ('roles', gen_random_uuid());

CREATE TABLE policies (
    name         text COLLATE "C" PRIMARY KEY,
    algorithm    text NOT NULL,
    -- 0: nothing is ever allowed.
    requests     bigint NOT NULL CHECK (requests >= 0),
    window_us    bigint NOT NULL CHECK (window_us > 0),
    burst        bigint NOT NULL CHECK (burst >= 0),
    durable      boolean NOT NULL,
    unlimited    boolean NOT NULL,
    shadow       boolean NOT NULL,
    update_time  timestamptz NOT NULL
);

-- What holds for one key in place of the policy's numbers, wherever the policy is defined. A window
-- of 1 is the policy's own.
CREATE TABLE policy_overrides (
    policy       text COLLATE "C" NOT NULL,
    key          text COLLATE "C" NOT NULL,
    effect       text NOT NULL CHECK (effect IN ('allow', 'deny', 'numbers')),
    requests     bigint NOT NULL CHECK (requests >= 0),
    window_us    bigint NOT NULL CHECK (window_us > 0),
    burst        bigint NOT NULL CHECK (burst >= 0),
    -- NULL: it holds until it is deleted.
    expire_time  timestamptz,
    note         text NOT NULL,
    update_time  timestamptz NOT NULL,
    PRIMARY KEY (policy, key)
);
CREATE INDEX policy_overrides_expire_time ON policy_overrides (expire_time);

CREATE TABLE roles (
    name                    text COLLATE "C" PRIMARY KEY,
    permissions             text[] NOT NULL,
    requires_second_factor  boolean NOT NULL,
    -- At most; NULL: as the settings say.
    idle_lifetime           interval,
    absolute_lifetime       interval,
    access_lifetime         interval,
    update_time             timestamptz NOT NULL
);

-- How long the session lasts without being used, if that is shorter than the settings say. It has
-- no days, which may have 23 hours.
ALTER TABLE sessions ADD COLUMN idle_lifetime interval;

-- Decides on `count` equal charges at `now_us`, takes as many as fit, and returns the new state.
-- A count of 0 only looks; -1 gives `cost` back. The burst of the last second is not given back: it
-- counts what came through, and is over in a second anyway. A state of NULL is a key not seen yet.
--
-- Time never runs backwards for a key: a state from ahead of the clock is taken as it is, unless it
-- is from more than a window ahead (a clock was set back since), which would lock the key for long.
--
-- What a key used under larger numbers is kept when they become smaller, so that it still counts if
-- they become larger again. A bucket that holds more than it has room for is left as it is until all
-- of that has drained at the rate that it was used under, but for two windows at most.
--
-- PL/pgSQL prepares each expression that is reached anew in every transaction: hence the branches.
CREATE OR REPLACE FUNCTION rate_limit_decide(
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
    drain_us    bigint;  -- when a bucket that is too full has drained
BEGIN
    IF algorithm = 'token_bucket' THEN
        level := CASE
            WHEN state.since_us > now_us - 2 * window_us AND state.since_us <= now_us + window_us
                AND state.expire_us > now_us
            THEN state.used - rate_limit_muldiv(
                greatest(now_us - state.since_us, 0), requests, window_us, 0)
            ELSE 0
        END;
        IF level <= 0 OR level > requests THEN
            drain_us := CASE
                WHEN level > requests
                THEN least(state.expire_us, state.since_us + 2 * window_us)
            END;
            IF drain_us <= now_us OR drain_us IS NULL THEN
                drain_us := NULL;
                level := 0;
                state.since_us := greatest(now_us,
                    CASE WHEN state.since_us <= now_us + window_us THEN state.since_us END);
                state.used := 0;
            END IF;
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
            THEN state.used
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
        IF drain_us IS NULL OR level <= requests THEN
            -- After a refund it may have been over before now.
            drain_us := greatest(now_us, state.since_us
                + rate_limit_muldiv(state.used, window_us, requests, requests - 1));
        END IF;
        state.expire_us := drain_us;
        state.fit_us := CASE
            WHEN level > requests THEN drain_us
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

DROP FUNCTION rate_limit_charge_together;

-- Decides on checks, one after the other: takes all charges of a check, or none if one of them does
-- not fit. `policies`, `keys` and `durables` say what is charged at all, sorted as for
-- rate_limit_charge. Charge i is of the pair number `places[i]`; the first `sizes[1]` charges are
-- the first check's, and so on. Returns a row for each charge, in their order; none of a check's is
-- granted, or each is. A charge whose place in `shadows` is true prevents nothing: if it does not
-- fit, the others are granted without it.
CREATE FUNCTION rate_limit_charge_together(
    durables boolean[], policies text[], keys text[], places integer[], algorithms text[],
    requests bigint[], windows_us bigint[], bursts bigint[], costs bigint[], sizes integer[],
    shadows boolean[], at_us bigint
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
            fits := fits AND (state.granted = 1 OR shadows[i]);
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
