-- What a schedule may be asked for, and what became of its ticks: one row for every schedule of DBOS's.
CREATE TABLE ops.schedules (
    schedule_name text PRIMARY KEY,
    -- What happens to a tick while a run of the schedule is unfinished: it starts, is skipped, or waits (one does).
    overlap text NOT NULL DEFAULT 'allow' CHECK (overlap IN ('allow', 'skip', 'buffer_one')),
    -- Which ticks are made up for that no process fired in time: none, the latest, all that are young enough.
    catch_up text NOT NULL DEFAULT 'none' CHECK (catch_up IN ('none', 'once', 'all')),
    catch_up_seconds double precision,
    last_tick_at timestamptz,
    -- Every tick up to here was fired, skipped or counted as missed.
    accounted_until timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The first tick after that, as the last worker computed it. NULL while the schedule is paused.
    next_tick_at timestamptz,
    missed bigint NOT NULL DEFAULT 0,
    skipped bigint NOT NULL DEFAULT 0
);

-- Ticks that were not started because of the overlap rule. Each process that fires the tick gets the same answer.
CREATE TABLE ops.skipped_ticks (
    tick_id text PRIMARY KEY,
    schedule_name text NOT NULL,
    skipped_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX skipped_ticks_schedule ON ops.skipped_ticks (schedule_name, skipped_at);

CREATE INDEX IF NOT EXISTS holdfast_unfinished_ticks ON dbos.workflow_status (schedule_name)
    WHERE schedule_name IS NOT NULL AND status IN ('ENQUEUED', 'PENDING', 'DELAYED');

-- Keeps a row for each schedule, whatever created it. A schedule that is new, changed or no longer paused is
-- accounted for from when the processes may have noticed (DBOS polls for schedules every 5 s).
CREATE FUNCTION ops.note_schedule() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        DELETE FROM ops.schedules s WHERE s.schedule_name = OLD.schedule_name;
        RETURN NULL;
    END IF;
    INSERT INTO ops.schedules AS s (schedule_name, accounted_until)
    VALUES (NEW.schedule_name, clock_timestamp() + interval '6 seconds')
    ON CONFLICT (schedule_name) DO UPDATE SET accounted_until = excluded.accounted_until, next_tick_at = NULL;
    RETURN NULL;
END $$;

CREATE TRIGGER holdfast_schedule_created AFTER INSERT OR DELETE ON dbos.workflow_schedules
    FOR EACH ROW EXECUTE FUNCTION ops.note_schedule();
CREATE TRIGGER holdfast_schedule_changed AFTER UPDATE ON dbos.workflow_schedules
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status OR OLD.schedule IS DISTINCT FROM NEW.schedule
        OR OLD.cron_timezone IS DISTINCT FROM NEW.cron_timezone)
    EXECUTE FUNCTION ops.note_schedule();

-- Starts the tick that waits longest. The caller holds the lock of the schedule's row. A row that is locked is
-- being ended or resumed; waiting for it here could be a deadlock.
CREATE FUNCTION ops.start_waiting_tick(schedule text) RETURNS void LANGUAGE sql
SET search_path = pg_catalog, pg_temp AS $$
    UPDATE dbos.workflow_status w SET status = 'ENQUEUED',
        application_version = coalesce((
            SELECT v.version_name FROM dbos.application_versions v
            WHERE v.application_name = w.application_name OR v.application_name IS NULL
            ORDER BY v.version_timestamp DESC LIMIT 1), w.application_version),
        -- It waits in its queue from now on.
        delay_until_epoch_ms = (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
        updated_at = (extract(epoch FROM clock_timestamp()) * 1000)::bigint
    WHERE w.workflow_uuid = (
        SELECT d.workflow_uuid FROM dbos.workflow_status d
        WHERE d.schedule_name = schedule AND d.status = 'DELAYED' AND d.delay_until_epoch_ms IS NULL
        ORDER BY d.created_at LIMIT 1 FOR UPDATE SKIP LOCKED)
$$;

-- Fires a tick: stores its workflow, or records that it is skipped, under the lock of the schedule's row. So any
-- number of processes that fire the same tick, or two ticks at the same time, come to one answer: started,
-- waiting, skipped, or known (another process was first).
CREATE FUNCTION ops.fire_tick(
    tick_id text, schedule text, scheduled_at timestamptz, workflow_name text, workflow_class text, queue text,
    application text, version text, arguments text
) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rule text;
    running bigint;
    waiting bigint;
    outcome text := 'started';
BEGIN
    SELECT s.overlap INTO rule FROM ops.schedules s WHERE s.schedule_name = schedule FOR NO KEY UPDATE;
    IF EXISTS (SELECT FROM dbos.workflow_status w WHERE w.workflow_uuid = tick_id)
        OR EXISTS (SELECT FROM ops.skipped_ticks t WHERE t.tick_id = fire_tick.tick_id) THEN
        RETURN 'known';
    END IF;
    -- A run that is delayed to a time runs: a takeover put it off (takeover.sql, delay_work). A tick that waits has none.
    SELECT count(*) FILTER (WHERE w.status <> 'DELAYED' OR w.delay_until_epoch_ms IS NOT NULL),
           count(*) FILTER (WHERE w.status = 'DELAYED' AND w.delay_until_epoch_ms IS NULL)
    INTO running, waiting FROM dbos.workflow_status w
    WHERE w.schedule_name = schedule AND w.status IN ('ENQUEUED', 'PENDING', 'DELAYED');
    IF waiting > 0 AND (rule = 'allow' OR running = 0) THEN
        -- Usually the end of the run before has started it.
        PERFORM ops.start_waiting_tick(schedule);
    END IF;
    IF rule <> 'allow' AND running + waiting > 0 THEN
        outcome := CASE WHEN rule = 'buffer_one' AND (waiting = 0 OR waiting = 1 AND running = 0) THEN 'waiting'
                        ELSE 'skipped' END;
    END IF;
    UPDATE ops.schedules s SET skipped = s.skipped + (outcome = 'skipped')::integer,
        last_tick_at = CASE WHEN starts_with(tick_id, 'sched-' || schedule || '-trigger-') THEN s.last_tick_at
                            ELSE greatest(s.last_tick_at, scheduled_at) END
    WHERE s.schedule_name = schedule;
    IF outcome = 'skipped' THEN
        INSERT INTO ops.skipped_ticks (tick_id, schedule_name) VALUES (fire_tick.tick_id, schedule);
        -- Far older than anything that is still caught up or counted.
        DELETE FROM ops.skipped_ticks t
        WHERE t.schedule_name = schedule AND t.skipped_at < clock_timestamp() - interval '7 days';
        RETURN outcome;
    END IF;
    INSERT INTO dbos.workflow_status
        (workflow_uuid, status, name, class_name, queue_name, application_name, application_version,
         schedule_name, recovery_attempts, priority)
    VALUES (tick_id, CASE outcome WHEN 'waiting' THEN 'DELAYED' ELSE 'ENQUEUED' END, workflow_name, workflow_class,
            queue, application, version, schedule, 0, 0);
    INSERT INTO dbos.workflow_input (workflow_uuid, inputs) VALUES (tick_id, arguments);
    RETURN outcome;
END $$;

-- A run has ended, whatever ended it: the tick that waits for it starts.
CREATE FUNCTION ops.end_scheduled_run() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM ops.schedules s
    WHERE s.schedule_name = OLD.schedule_name AND s.overlap <> 'allow' FOR NO KEY UPDATE;
    IF FOUND AND NOT EXISTS (
        SELECT FROM dbos.workflow_status w
        WHERE w.schedule_name = OLD.schedule_name AND (w.status IN ('ENQUEUED', 'PENDING')
            OR w.status = 'DELAYED' AND w.delay_until_epoch_ms IS NOT NULL)) THEN
        PERFORM ops.start_waiting_tick(OLD.schedule_name);
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER holdfast_scheduled_run_ended AFTER UPDATE OF status ON dbos.workflow_status
    FOR EACH ROW WHEN (OLD.schedule_name IS NOT NULL AND OLD.status IN ('ENQUEUED', 'PENDING', 'DELAYED')
        AND NEW.status NOT IN ('ENQUEUED', 'PENDING', 'DELAYED'))
    EXECUTE FUNCTION ops.end_scheduled_run();

-- A run that is resumed beside another run of its schedule waits for that one.
CREATE FUNCTION ops.resume_scheduled_run() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM ops.schedules s
    WHERE s.schedule_name = OLD.schedule_name AND s.overlap <> 'allow' FOR NO KEY UPDATE;
    IF FOUND AND EXISTS (
        SELECT FROM dbos.workflow_status w
        WHERE w.schedule_name = OLD.schedule_name AND (w.status IN ('ENQUEUED', 'PENDING')
            OR w.status = 'DELAYED' AND w.delay_until_epoch_ms IS NOT NULL)) THEN
        NEW.status := 'DELAYED';
        NEW.delay_until_epoch_ms := NULL;
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER holdfast_scheduled_run_resumed BEFORE UPDATE OF status ON dbos.workflow_status
    FOR EACH ROW WHEN (OLD.schedule_name IS NOT NULL AND OLD.status NOT IN ('ENQUEUED', 'PENDING', 'DELAYED')
        AND NEW.status = 'ENQUEUED')
    EXECUTE FUNCTION ops.resume_scheduled_run();

INSERT INTO ops.schedules (schedule_name) SELECT schedule_name FROM dbos.workflow_schedules;
