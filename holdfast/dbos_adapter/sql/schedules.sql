-- Schedules: their rules, their ticks, and the outcome of each tick (holdfast/dbos_adapter/schedules.py).

-- name: fire_tick
SELECT ops.fire_tick(%(tick_id)s, %(schedule)s, %(scheduled_at)s, %(workflow_name)s, %(workflow_class)s, %(queue)s,
                     %(application)s, %(version)s, %(arguments)s) AS outcome

-- name: set_schedule_rules
-- Stores the rules before DBOS knows the schedule, so that its first tick already follows them.
INSERT INTO ops.schedules AS s (schedule_name, overlap, catch_up, catch_up_seconds, declared)
VALUES (%(schedule)s, %(overlap)s, %(catch_up)s, %(catch_up_seconds)s, true)
ON CONFLICT (schedule_name) DO UPDATE
SET declared = true, overlap = excluded.overlap, catch_up = excluded.catch_up, catch_up_seconds = excluded.catch_up_seconds

-- name: settle_forgotten_schedules
-- Pauses the schedules that no live code declares any more, and those of DBOS's own calls whose workflow no live code
-- has: their ticks would wait for ever. Resumes the latter when live code has their workflow again; the former are
-- resumed by that code's start. An executor that has published no schedules (it starts, or is of an older release) may
-- know all. Heartbeats do not count, because all are old after an outage.
WITH known AS (
    SELECT d.schedule_name, d.status, s.forgotten, count(e.*) > 0 AS may_be_known, count(r.schedules) > 0 AS is_known
    FROM dbos.workflow_schedules d JOIN ops.schedules s USING (schedule_name)
    LEFT JOIN (ops.executors e LEFT JOIN ops.registrations r USING (executor_id))
        ON e.application = %(application)s AND e.state IN ('live', 'draining')
        AND (r.schedules IS NULL OR d.schedule_name = ANY (r.schedules) OR NOT s.declared AND r.workflows ? d.workflow_name)
    WHERE d.application_name = %(application)s AND (d.status = 'ACTIVE' OR s.forgotten)
      AND EXISTS (SELECT FROM ops.executors l WHERE l.application = %(application)s AND l.state = 'live')
    GROUP BY 1, 2, 3
), changed AS MATERIALIZED (
    SELECT k.schedule_name, k.status = 'ACTIVE' AS was_active,
           CASE k.status WHEN 'ACTIVE' THEN k.may_be_known ELSE k.is_known END AS is_active
    FROM known k
    WHERE CASE k.status WHEN 'ACTIVE' THEN k.forgotten OR NOT k.may_be_known ELSE k.is_known END
), noted AS (
    UPDATE ops.schedules s SET forgotten = NOT c.is_active AND NOT s.declared
    FROM changed c WHERE s.schedule_name = c.schedule_name)
UPDATE dbos.workflow_schedules d SET status = CASE WHEN c.is_active THEN 'ACTIVE' ELSE 'PAUSED' END
FROM changed c WHERE d.schedule_name = c.schedule_name AND c.is_active <> c.was_active
RETURNING d.schedule_name, c.is_active

-- name: due_schedules
-- Returns the schedules that may have a tick to account for.
SELECT d.schedule_name, d.schedule AS cron, d.cron_timezone AS time_zone, s.catch_up, s.catch_up_seconds,
       s.accounted_until, s.next_tick_at, clock_timestamp() AS now
FROM dbos.workflow_schedules d JOIN ops.schedules s USING (schedule_name)
WHERE d.status = 'ACTIVE' AND (d.application_name = %(application)s OR d.application_name IS NULL)
  AND (s.next_tick_at IS NULL OR s.next_tick_at <= clock_timestamp())

-- name: known_ticks
-- Returns the ticks that were fired: started, waiting or skipped.
SELECT g.tick_id FROM unnest(%(tick_ids)s::text[]) AS g (tick_id)
WHERE EXISTS (SELECT FROM dbos.workflow_status w WHERE w.workflow_uuid = g.tick_id)
   OR EXISTS (SELECT FROM ops.skipped_ticks t WHERE t.tick_id = g.tick_id)

-- name: account_ticks
-- Advances accounted_until, unless another process did so meanwhile.
UPDATE ops.schedules SET accounted_until = %(until)s, next_tick_at = %(next_tick_at)s, missed = missed + %(missed)s
WHERE schedule_name = %(schedule)s AND accounted_until = %(accounted_until)s
RETURNING schedule_name

-- name: schedule_figures
SELECT schedule_name, missed, skipped,
       extract(epoch FROM clock_timestamp() - last_tick_at)::float8 AS last_tick_age_seconds,
       extract(epoch FROM next_tick_at - clock_timestamp())::float8 AS next_tick_seconds
FROM ops.schedules ORDER BY 1

-- name: schedules
SELECT d.schedule_name AS name, d.workflow_name AS workflow, d.schedule AS cron,
       coalesce(d.cron_timezone, 'UTC') AS time_zone, s.overlap, s.catch_up, s.catch_up_seconds,
       d.status <> 'ACTIVE' AS paused, s.last_tick_at, s.next_tick_at, s.missed, s.skipped,
       (SELECT count(*) FROM dbos.workflow_status w
        WHERE w.schedule_name = d.schedule_name AND w.status IN ('ENQUEUED', 'PENDING', 'DELAYED')) AS unfinished
FROM dbos.workflow_schedules d JOIN ops.schedules s USING (schedule_name) ORDER BY 1
