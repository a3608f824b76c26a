-- Frozen logins, and what the detections have raised.

-- Logins that are refused for a time. A handful of rows, which every replica holds in memory.
CREATE TABLE login_freezes (
    freeze_id    uuid PRIMARY KEY,
    -- Sorted; empty: all methods.
    methods      text[] NOT NULL,
    -- NULL: every client.
    network      cidr,
    create_time  timestamptz NOT NULL,
    expire_time  timestamptz NOT NULL,
    created_by   text NOT NULL,
    reason       text NOT NULL,
    -- Freezing the same again extends it.
    UNIQUE NULLS NOT DISTINCT (methods, network)
);

-- Of the replicas, the one that sets run_time looks for incidents.
CREATE TABLE detection_runs (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    run_time  timestamptz NOT NULL
);
INSERT INTO detection_runs (run_time) VALUES ('-infinity');

-- What was raised, so that it is raised once in a window.
CREATE TABLE detections (
    detection    text NOT NULL,
    -- The network, caller or key concerned; '': the service as a whole.
    subject      text NOT NULL,
    raise_time   timestamptz NOT NULL,
    -- Until when the same is not raised again.
    quiet_until  timestamptz NOT NULL,
    PRIMARY KEY (detection, subject)
);
CREATE INDEX detections_quiet_until ON detections (quiet_until);

-- The newest events of a type.
CREATE INDEX audit_events_of_type ON audit_events (type, event_id);
