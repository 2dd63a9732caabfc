-- Counts that outlive their rows, for /metrics: however old the rows are that retention deletes.

-- An executor learns that it was declared dead, and is gone: only the database can tell of it.
-- Likewise of a drain, which is over when its process ends.
ALTER TABLE ops.executors ADD COLUMN fenced_at timestamptz, ADD COLUMN drain_seconds double precision;
CREATE INDEX executors_ended_at ON ops.executors (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX executors_fenced_at ON ops.executors (fenced_at) WHERE fenced_at IS NOT NULL;

-- What is counted, by name; each row of it adds `value` once.
CREATE VIEW ops.countable AS
    SELECT 'ticks_run' AS name, '' AS application, 'Infinity'::float8 AS le, 1::float8 AS value,
           scheduled_at AS at
    FROM ops.pulses WHERE status = 'run'
UNION ALL
    SELECT 'handed_over', '', 'Infinity', 1, released_at FROM ops.handovers WHERE kind = 'handover'
UNION ALL
    SELECT 'fenced', application, 'Infinity', 1, fenced_at FROM ops.executors WHERE fenced_at IS NOT NULL
UNION ALL
    SELECT 'drain_seconds', application, 'Infinity', drain_seconds, ended_at
    FROM ops.executors WHERE ended_at IS NOT NULL AND drain_seconds IS NOT NULL
UNION ALL
    -- One histogram bucket a drain: its upper limit.
    SELECT 'drains', application,
           ('{0.1,0.25,0.5,1,2.5,5,10,15,20,30,60,120,Infinity}'::float8[])
               [1 + width_bucket(drain_seconds, '{0.1,0.25,0.5,1,2.5,5,10,15,20,30,60,120}'::float8[])],
           1, ended_at
    FROM ops.executors WHERE ended_at IS NOT NULL AND drain_seconds IS NOT NULL;

-- Sums over everything up to `counted_until`; what is younger is counted from its rows. Retention may
-- delete only rows that are older.
CREATE TABLE ops.totals (
    name text NOT NULL,
    application text NOT NULL,
    le double precision NOT NULL,
    value double precision NOT NULL,
    PRIMARY KEY (name, application, le)
);
CREATE TABLE ops.totals_until (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    counted_until timestamptz NOT NULL DEFAULT '-infinity',
    first_tick timestamptz
);
INSERT INTO ops.totals_until DEFAULT VALUES;

-- Moves `counted_until` on, to two hours ago: nothing can be committed that far back any more. Somebody
-- else who does it right now is not waited for: a paused process must hold up no pulse.
CREATE FUNCTION ops.fold_totals() RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    since timestamptz;
    until timestamptz := now() - interval '2 hours';
BEGIN
    SELECT u.counted_until INTO since FROM ops.totals_until u
    WHERE u.counted_until < until - interval '10 minutes' FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    INSERT INTO ops.totals AS t (name, application, le, value)
    SELECT c.name, c.application, c.le, sum(c.value) FROM ops.countable c
    WHERE c.at > since AND c.at <= until GROUP BY 1, 2, 3
    ON CONFLICT (name, application, le) DO UPDATE SET value = t.value + excluded.value;
    UPDATE ops.totals_until u SET counted_until = until,
        first_tick = least(u.first_tick, (SELECT min(p.scheduled_at) FROM ops.pulses p));
END $$;

CREATE FUNCTION ops.fold_totals_at_pulse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM ops.fold_totals();
    RETURN NULL;
END $$;

CREATE TRIGGER holdfast_fold_totals AFTER INSERT ON ops.pulses
    FOR EACH STATEMENT EXECUTE FUNCTION ops.fold_totals_at_pulse();

SELECT ops.fold_totals();
