-- Statements for pulses, requests, effects and /metrics.

-- name: claim_request
-- The first request with a key owns it. Every request gets the owner's row. A released key has no fingerprint.
WITH mine AS (
    INSERT INTO ops.requests AS r (key, fingerprint, workflow_id)
    VALUES (%(key)s, %(fingerprint)s, %(workflow_id)s)
    ON CONFLICT (key) DO UPDATE
        SET fingerprint = CASE r.fingerprint WHEN '' THEN excluded.fingerprint ELSE r.fingerprint END,
            workflow_id = CASE r.fingerprint WHEN '' THEN excluded.workflow_id ELSE r.workflow_id END
    RETURNING fingerprint, workflow_id)
SELECT fingerprint, workflow_id FROM mine

-- name: release_request
-- Frees the key of a request that was refused after its claim, unless the same request has stored the workflow since.
UPDATE ops.requests r SET fingerprint = ''
WHERE r.key = %(key)s AND r.workflow_id = %(workflow_id)s
  AND NOT EXISTS (SELECT FROM dbos.workflow_status w WHERE w.workflow_uuid = r.workflow_id)

-- name: backlog
-- Counts unfinished workflows up to the limit, from one of DBOS's partial indexes.
SELECT count(*) AS unfinished FROM (
    SELECT FROM dbos.workflow_status WHERE status IN ('ENQUEUED', 'PENDING') LIMIT %(limit)s) AS bounded

-- name: stored_request
-- Returns the workflow that a key stands for, once it is stored.
SELECT r.workflow_id FROM ops.requests r
WHERE r.key = %(key)s AND EXISTS (SELECT FROM dbos.workflow_status w WHERE w.workflow_uuid = r.workflow_id)

-- name: record_pulse
-- One row per tick, whichever process runs it and however often it runs.
INSERT INTO ops.pulses
    (scheduled_at, workflow_id, executor_id, lateness_seconds, status, queue_depth, live_executors)
SELECT %(scheduled_at)s, %(workflow_id)s, %(executor_id)s,
       extract(epoch FROM clock_timestamp() - %(scheduled_at)s::timestamptz)::float8,
       CASE WHEN clock_timestamp() - %(scheduled_at)s::timestamptz > make_interval(secs => %(late_seconds)s)
            THEN 'skipped' ELSE 'run' END,
       (SELECT count(*) FROM dbos.workflow_status WHERE status = 'ENQUEUED' AND queue_name = %(queue_name)s),
       (SELECT count(*) FROM ops.executors WHERE state IN ('live', 'draining'))
ON CONFLICT (scheduled_at) DO NOTHING
RETURNING status, lateness_seconds

-- name: recent_pulses
SELECT scheduled_at, started_at, lateness_seconds, executor_id, status, queue_depth, live_executors
FROM ops.pulses ORDER BY scheduled_at DESC LIMIT %(limit)s

-- name: enqueue_children
-- Enqueues any number of children in one statement on their queue, and leaves existing ones unchanged. The rows are
-- the same as with DBOS's own enqueue, which takes five round trips per child (tests/integration/dbos_adapter/test_round_trips.py).
-- Stores none if the parent has ended: the children of a parent that was cancelled meanwhile would stay running.
WITH parent AS (
    SELECT FROM dbos.workflow_status
    WHERE workflow_uuid = %(parent_id)s AND status IN ('ENQUEUED', 'PENDING') FOR NO KEY UPDATE
), given AS (
    SELECT g.workflow_id, g.inputs, g.position, (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms
    FROM parent,
         unnest(%(workflow_ids)s::text[], %(inputs)s::text[]) WITH ORDINALITY AS g (workflow_id, inputs, position)
), stored AS (
    INSERT INTO dbos.workflow_status
        (workflow_uuid, status, name, queue_name, application_name, application_version, executor_id, application_id,
         parent_workflow_id, serialization, attributes, priority, recovery_attempts, created_at, updated_at)
    SELECT workflow_id, 'ENQUEUED', %(name)s, %(queue_name)s, %(application)s, %(version)s, %(executor_id)s, '',
           %(parent_id)s, 'portable_json', %(attributes)s::jsonb, 0, 0, now_ms, now_ms
    FROM given ORDER BY position
    ON CONFLICT (workflow_uuid) DO NOTHING
    RETURNING workflow_uuid)
INSERT INTO dbos.workflow_input (workflow_uuid, inputs)
SELECT workflow_id, inputs FROM given JOIN stored ON workflow_uuid = workflow_id

-- name: missing_children
-- Returns those of these workflows that are not stored yet, in the given order.
SELECT coalesce(array_agg(g.workflow_id ORDER BY g.position), '{}') AS missing
FROM unnest(%(workflow_ids)s::text[]) WITH ORDINALITY AS g (workflow_id, position)
WHERE NOT EXISTS (SELECT FROM dbos.workflow_status w WHERE w.workflow_uuid = g.workflow_id)

-- name: lost_executions
-- Returns those of these executions that no longer own their workflows. Without a token only the status decides.
-- The subquery makes the planner use the primary key.
SELECT e.workflow_id, e.owner_xid
FROM unnest(%(workflow_ids)s::text[], %(owner_xids)s::text[]) AS e (workflow_id, owner_xid)
WHERE (SELECT w.status = 'PENDING' AND w.owner_xid IS NOT DISTINCT FROM coalesce(e.owner_xid, w.owner_xid)
       FROM dbos.workflow_status w WHERE w.workflow_uuid = e.workflow_id) IS NOT TRUE

-- name: revoked_executions
-- Returns the executions of an executor that were revoked, and which of them that was a second ago.
SELECT workflow_id, owner_xid, revoked_at < clock_timestamp() - interval '1 s' AS settled
FROM ops.revoked WHERE executor_id = %(executor_id)s

-- name: forget_revoked
DELETE FROM ops.revoked r USING unnest(%(workflow_ids)s::text[], %(owner_xids)s::text[]) AS e (workflow_id, owner_xid)
WHERE r.workflow_id = e.workflow_id AND r.owner_xid = e.owner_xid

-- name: children_state
-- Counts the children of a workflow, and those that are unfinished.
SELECT count(*) FILTER (WHERE status IN ('ENQUEUED', 'PENDING', 'DELAYED')) AS unfinished, count(*) AS children
FROM dbos.workflow_status WHERE parent_workflow_id = %(workflow_id)s

-- name: listing_progress
-- Counts the pages of a listing, with the sums of those that have ended. A sum of sizes may be beyond bigint.
SELECT count(*) AS pages, count(*) FILTER (WHERE sums IS NOT NULL) AS completed,
       coalesce(sum((sums ->> 'keys')::numeric), 0) AS keys, coalesce(sum((sums ->> 'bytes')::numeric), 0) AS bytes
FROM (SELECT CASE WHEN w.status = 'SUCCESS' AND pg_input_is_valid(o.output, 'jsonb') THEN o.output::jsonb END AS sums
      FROM dbos.workflow_status w LEFT JOIN dbos.workflow_output o ON o.workflow_uuid = w.workflow_uuid
      WHERE w.parent_workflow_id = %(workflow_id)s) AS ended

-- name: unfinished_by_status
-- Counts unfinished and parked work by name and queue. Each part uses one of DBOS's partial indexes.
SELECT status, coalesce(name, '') AS workflow_name, coalesce(queue_name, '') AS queue_name, count(*) AS workflows
FROM dbos.workflow_status WHERE status IN ('ENQUEUED', 'PENDING') GROUP BY 1, 2, 3
UNION ALL
SELECT status, coalesce(name, ''), coalesce(queue_name, ''), count(*)
FROM dbos.workflow_status WHERE status = 'DELAYED' GROUP BY 1, 2, 3
UNION ALL
SELECT status, coalesce(name, ''), coalesce(queue_name, ''), count(*)
FROM dbos.workflow_status WHERE status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED' GROUP BY 1, 2, 3

-- name: queue_ages
-- Returns every queue that is registered or has waiting work; an empty one with zeros.
SELECT queue_name, coalesce(w.depth, 0) AS depth, coalesce(w.oldest_age_seconds, 0) AS oldest_age_seconds
FROM (SELECT name AS queue_name FROM dbos.queues) AS q
FULL JOIN (
    SELECT queue_name, count(*) AS depth,
           greatest(0, extract(epoch FROM clock_timestamp()) - min(created_at) / 1000.0)::float8
               AS oldest_age_seconds
    FROM dbos.workflow_status WHERE status = 'ENQUEUED' AND queue_name IS NOT NULL GROUP BY 1
) AS w USING (queue_name)

-- name: executors_by_state
-- Counts executors with a recent heartbeat. If the last executor of an application crashes, no process declares it
-- dead: its row stays `live`, but without heartbeats. (The metrics below and console.sql use the same rule; a
-- verdict and an adoption require more.)
SELECT e.application, e.state, count(*) AS executors FROM ops.executors e
WHERE e.state IN ('live', 'draining')
  AND e.heartbeat_at > statement_timestamp() - make_interval(secs => 2 * %(lease_seconds)s)
GROUP BY 1, 2

-- name: protected_applications
SELECT name FROM ops.protected ORDER BY name

-- name: orphaned_count
-- `statement_timestamp`, not `clock_timestamp`: with a volatile function the subquery would run once per workflow.
SELECT count(*) AS workflows FROM dbos.workflow_status w
WHERE w.status = 'PENDING' AND (w.application_name IS NULL OR w.application_name IN (SELECT name FROM ops.protected))
  AND NOT EXISTS (
    SELECT FROM ops.executors e WHERE e.executor_id = w.executor_id AND e.state IN ('live', 'draining')
      AND e.heartbeat_at > statement_timestamp() - make_interval(secs => 2 * %(lease_seconds)s))

-- name: pulse_health
-- Returns the age of the last tick and the number of ticks that did not run. A tick did not run if it is on the
-- 5-second grid between the first tick ever and `settled_until`, before which no tick can run any more, and has no
-- `run` row. So the number never falls, and it rises even while no process schedules. The statement counts only
-- rows that are younger than the last fold.
WITH grid AS (
    SELECT u.counted_until, least(u.first_tick, (SELECT min(scheduled_at) FROM ops.pulses WHERE scheduled_at > '-infinity')) AS first_tick,
           date_bin('5 s', now() - make_interval(secs => %(late_seconds)s + 5), '2000-01-01Z') AS settled_until
    FROM ops.totals_until u)
SELECT (SELECT extract(epoch FROM clock_timestamp() - max(scheduled_at))::float8 FROM ops.pulses
        WHERE scheduled_at < 'infinity')
           AS last_tick_age_seconds,
       first_tick, settled_until,
       CASE WHEN settled_until >= first_tick THEN
           (extract(epoch FROM settled_until - first_tick) / 5)::bigint + 1
           - coalesce((SELECT value FROM ops.totals WHERE name = 'ticks_run'), 0)::bigint
           - (SELECT count(*) FROM ops.pulses
              WHERE status = 'run' AND scheduled_at > (SELECT counted_until FROM grid)
                AND scheduled_at <= (SELECT settled_until FROM grid))
       ELSE 0 END AS missed
FROM grid

-- name: totals
-- The database's counters (the view ops.countable): the folded sums plus the rows since the last fold.
SELECT name, application, le, sum(value) AS value
FROM (
    SELECT name, application, le, value FROM ops.totals WHERE name <> 'ticks_run'
    UNION ALL
    SELECT name, application, le, value FROM ops.countable
    WHERE at > (SELECT counted_until FROM ops.totals_until) AND at <= now() AND name <> 'ticks_run'
) AS all_of_them
GROUP BY 1, 2, 3

-- name: ended
-- Counts the ends of workflows by name and stored status, with zeros for the workflows that live executors know.
SELECT workflow_name, status, sum(workflows)::float8 AS workflows
FROM (
    SELECT CASE WHEN n.counted THEN x.workflow_name ELSE '' END AS workflow_name, x.status, x.workflows
    FROM ops.ended x LEFT JOIN ops.ended_names n USING (workflow_name)
    UNION ALL
    SELECT w.name, s.status, 0
    FROM ops.registrations r JOIN ops.executors e USING (executor_id), jsonb_object_keys(r.workflows) AS w (name),
         unnest(%(statuses)s::text[]) AS s (status)
    WHERE e.state IN ('live', 'draining')
) AS all_of_them
GROUP BY 1, 2

-- name: last_purge
SELECT extract(epoch FROM clock_timestamp() - last_purge_at)::float8 AS age_seconds FROM ops.retention

-- name: schema_version
-- Fails if the database has never been migrated.
SELECT (SELECT max(version) FROM dbos.dbos_migrations) AS dbos,
       (SELECT max(version) FROM dbos.dbos_datasource_migrations) AS datasource,
       ARRAY(SELECT name FROM ops.migrations) AS ops

-- name: ops_state
-- Returns whether `ops` exists, and to which schema of DBOS its triggers belong. Needs no right on either.
SELECT to_regnamespace('ops') IS NOT NULL
           AND EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = to_regnamespace('ops') AND c.relname = 'migrations')
           AS has_ops,
       (SELECT s.nspname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        JOIN pg_namespace s ON s.oid = c.relnamespace WHERE t.tgname = 'holdfast_claimed' LIMIT 1) AS protected_schema

-- name: missing_rights
-- Returns the rights that the lease, the sweep and the drain of an attached application need and this role lacks.
SELECT r.right_needed || ' on ' || r.table_name AS what
FROM (VALUES ('SELECT', 'ops.executors'), ('INSERT', 'ops.executors'), ('UPDATE', 'ops.executors'),
             ('SELECT', 'ops.handovers'), ('INSERT', 'ops.handovers'), ('UPDATE', 'ops.handovers'),
             ('SELECT', 'ops.crashes'), ('INSERT', 'ops.crashes'), ('UPDATE', 'ops.crashes'),
             ('DELETE', 'ops.crashes'), ('SELECT', 'ops.waits'), ('INSERT', 'ops.waits'),
             ('UPDATE', 'ops.waits'), ('DELETE', 'ops.waits'), ('SELECT', 'ops.revoked'), ('DELETE', 'ops.revoked'), ('INSERT', 'ops.registrations'),
             ('UPDATE', 'ops.registrations'), ('INSERT', 'ops.applications')) AS r (right_needed, table_name)
WHERE NOT has_table_privilege(r.table_name, r.right_needed)
UNION ALL
SELECT 'UPDATE (attached_at, dbos_version) on ops.applications'
WHERE NOT (has_column_privilege('ops.applications', 'attached_at', 'UPDATE')
           AND has_column_privilege('ops.applications', 'dbos_version', 'UPDATE'))
