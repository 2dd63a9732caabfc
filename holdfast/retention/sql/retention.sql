-- Retention. A function deletes the workflows (migrations/024_delete.sql), a trigger the rows of `ops` that belong to them
-- (003_retention.sql), and these statements delete the rest. Each is bounded by a limit and uses an index.

-- name: purge_lock
-- Allows one purge at a time in the installation. The lock ends with its session. Lock keys of executors begin at 1.
SELECT pg_try_advisory_lock(7031, -1) AS held

-- name: purge_begin
-- Returns the times up to which rows are deleted, in epoch milliseconds of the database's clock. Rows that the
-- counters have not folded are kept. The time is recorded before the first row is deleted, for checks that compare
-- rows with the counts of processes.
WITH asked AS (
    SELECT least(now() - make_interval(secs => %(age_seconds)s), greatest(u.counted_until, 'epoch')) AS cutoff,
           -- least() ignores a NULL and would return the other value.
           CASE WHEN %(parked_age_seconds)s IS NOT NULL
               THEN least(now() - make_interval(secs => %(parked_age_seconds)s), greatest(u.counted_until, 'epoch'))
               END AS parked_cutoff
    FROM ops.totals_until u
), noted AS (
    UPDATE ops.retention r SET purged_until = greatest(r.purged_until, a.cutoff)
    FROM asked a WHERE NOT %(dry_run)s)
SELECT floor(extract(epoch FROM cutoff) * 1000)::bigint AS cutoff_ms,
       floor(extract(epoch FROM parked_cutoff) * 1000)::bigint AS parked_cutoff_ms
FROM asked

-- name: purge_end
UPDATE ops.retention SET last_purge_at = clock_timestamp()

-- name: purge_page
-- Returns the next workflows in the order in which they ended. `old` means that the workflow itself may be deleted (if
-- its start is later than its end, a wrong clock wrote it, and it counts). `first` means that no stored workflow
-- started it. This statement and those below use joins, because the planner sometimes turns an EXISTS among the
-- columns into a scan of the whole table.
SELECT w.workflow_uuid AS workflow_id, w.name, w.status, w.completed_at AS ended_ms, w.old,
       up.workflow_uuid IS NULL AS first, child.there IS NOT NULL AS has_children
FROM (
    SELECT workflow_uuid, name, status, completed_at, parent_workflow_id,
           coalesce(greatest(completed_at, created_at, started_at_epoch_ms) <= CASE
               WHEN status IN ('SUCCESS', 'ERROR', 'CANCELLED') THEN %(cutoff_ms)s::bigint
               WHEN status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED' THEN %(parked_cutoff_ms)s::bigint END, false) AS old
    FROM dbos.workflow_status
    WHERE completed_at <= %(cutoff_ms)s AND completed_at >= %(after_ms)s
      AND (completed_at, workflow_uuid) > (%(after_ms)s, %(after_id)s)
    ORDER BY completed_at, workflow_uuid LIMIT %(limit)s) AS w
LEFT JOIN dbos.workflow_status up ON up.workflow_uuid = w.parent_workflow_id
LEFT JOIN LATERAL (
    SELECT true AS there FROM dbos.workflow_status c WHERE c.parent_workflow_id = w.workflow_uuid LIMIT 1) AS child
    ON true
ORDER BY w.completed_at, w.workflow_uuid

-- name: purge_family
-- Returns a workflow and all its descendants, parents first; no rows unless all of them may be deleted.
WITH RECURSIVE family AS (
    SELECT w.workflow_uuid, w.name, w.status, w.completed_at, w.created_at, w.started_at_epoch_ms, 0 AS level
    FROM dbos.workflow_status w WHERE w.workflow_uuid = %(workflow_id)s
    UNION ALL
    SELECT c.workflow_uuid, c.name, c.status, c.completed_at, c.created_at, c.started_at_epoch_ms, f.level + 1
    FROM family f JOIN dbos.workflow_status c ON c.parent_workflow_id = f.workflow_uuid)
SELECT f.workflow_uuid AS workflow_id, f.name, f.status FROM family f
WHERE NOT EXISTS (
    SELECT FROM family m WHERE NOT coalesce(greatest(m.completed_at, m.created_at, m.started_at_epoch_ms) <= CASE
        WHEN m.completed_at IS NULL THEN NULL
        WHEN m.status IN ('SUCCESS', 'ERROR', 'CANCELLED') THEN %(cutoff_ms)s::bigint
        WHEN m.status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED' THEN %(parked_cutoff_ms)s::bigint END, false))
ORDER BY f.level, f.workflow_uuid LIMIT %(limit)s

-- name: purge_work
-- Deletes those of these workflows that may be deleted.
SELECT workflow_id FROM ops.delete_ended(%(workflow_ids)s::text[]) AS workflow_id

-- name: purge_left
-- Returns those of these workflows that are still there.
SELECT workflow_uuid AS workflow_id FROM dbos.workflow_status WHERE workflow_uuid = ANY (%(workflow_ids)s::text[])

-- name: purge_pulses
-- Deletes ticks whose workflow is gone, but never the newest tick. Here and below, a dry run treats workflows that
-- ended long ago as gone.
WITH page AS (
    SELECT p.scheduled_at, w.workflow_uuid IS NULL OR %(dry_run)s AND w.completed_at <= %(cutoff_ms)s
               AND w.status IN ('SUCCESS', 'ERROR', 'CANCELLED') AS alone
    FROM (SELECT scheduled_at, workflow_id FROM ops.pulses
          WHERE scheduled_at <= to_timestamp(%(cutoff_ms)s / 1000.0)
            AND scheduled_at > coalesce(%(after)s::timestamptz, '-infinity')
            AND scheduled_at < (SELECT max(scheduled_at) FROM ops.pulses)
          ORDER BY scheduled_at LIMIT %(limit)s) AS p
    LEFT JOIN dbos.workflow_status w ON w.workflow_uuid = p.workflow_id
), gone AS (
    DELETE FROM ops.pulses p USING page d WHERE d.alone AND p.scheduled_at = d.scheduled_at AND NOT %(dry_run)s)
SELECT count(*) FILTER (WHERE alone) AS rows, count(*) = %(limit)s AS more, max(scheduled_at)::text AS after FROM page

-- name: purge_keys
-- Deletes idempotency keys whose workflow is gone or was never stored.
WITH page AS (
    SELECT r.key, r.created_at, w.workflow_uuid IS NULL OR %(dry_run)s AND w.completed_at <= %(cutoff_ms)s
               AND w.status IN ('SUCCESS', 'ERROR', 'CANCELLED') AS alone
    FROM (SELECT key, created_at, workflow_id FROM ops.requests
          WHERE created_at <= to_timestamp(%(cutoff_ms)s / 1000.0)
            AND (%(after)s::text IS NULL
                 OR (created_at, key) > (split_part(%(after)s, '|', 1)::timestamptz,
                                         substr(%(after)s, strpos(%(after)s, '|') + 1)))
          ORDER BY created_at, key LIMIT %(limit)s) AS r
    LEFT JOIN dbos.workflow_status w ON w.workflow_uuid = r.workflow_id
), gone AS (
    DELETE FROM ops.requests r USING page p WHERE p.alone AND r.key = p.key AND NOT %(dry_run)s)
SELECT count(*) FILTER (WHERE alone) AS rows, count(*) = %(limit)s AS more,
       (SELECT created_at || '|' || key FROM page ORDER BY created_at DESC, key DESC LIMIT 1) AS after
FROM page

-- name: purge_handovers
-- Deletes handovers whose workflow is gone.
WITH page AS (
    SELECT h.handover_id, h.released_at, w.workflow_uuid IS NULL OR %(dry_run)s AND w.completed_at <= %(cutoff_ms)s
               AND w.status IN ('SUCCESS', 'ERROR', 'CANCELLED') AS alone
    FROM (SELECT handover_id, released_at, workflow_id FROM ops.handovers
          WHERE released_at <= to_timestamp(%(cutoff_ms)s / 1000.0)
            AND (%(after)s::text IS NULL
                 OR (released_at, handover_id) > (split_part(%(after)s, '|', 1)::timestamptz,
                                                  split_part(%(after)s, '|', 2)::bigint))
          ORDER BY released_at, handover_id LIMIT %(limit)s) AS h
    LEFT JOIN dbos.workflow_status w ON w.workflow_uuid = h.workflow_id
), gone AS (
    DELETE FROM ops.handovers h USING page p WHERE p.alone AND h.handover_id = p.handover_id AND NOT %(dry_run)s)
SELECT count(*) FILTER (WHERE alone) AS rows, count(*) = %(limit)s AS more,
       (SELECT released_at || '|' || handover_id FROM page ORDER BY released_at DESC, handover_id DESC LIMIT 1) AS after
FROM page

-- name: purge_executors
-- Deletes executors that ended long ago, unless running or parked work refers to them.
WITH page AS (
    SELECT e.executor_id, e.ended_at,
           NOT EXISTS (SELECT FROM dbos.workflow_status w
                       WHERE w.status = 'PENDING' AND w.executor_id = e.executor_id)
           AND NOT EXISTS (SELECT FROM dbos.workflow_status w
                           WHERE w.status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED' AND w.executor_id = e.executor_id)
           AND coalesce(e.fenced_at <= to_timestamp(%(cutoff_ms)s / 1000.0), true) AS free
    FROM ops.executors e
    WHERE e.state IN ('drained', 'dead') AND e.ended_at <= to_timestamp(%(cutoff_ms)s / 1000.0)
      AND (%(after)s::text IS NULL
           OR (e.ended_at, e.executor_id) > (split_part(%(after)s, '|', 1)::timestamptz, split_part(%(after)s, '|', 2)))
    ORDER BY e.ended_at, e.executor_id LIMIT %(limit)s
), gone AS (
    DELETE FROM ops.executors e USING page p WHERE p.free AND e.executor_id = p.executor_id AND NOT %(dry_run)s)
SELECT count(*) FILTER (WHERE free) AS rows, count(*) = %(limit)s AS more,
       (SELECT ended_at || '|' || executor_id FROM page ORDER BY ended_at DESC, executor_id DESC LIMIT 1) AS after
FROM page

-- name: purge_operations
-- Deletes control operations that ended long ago.
WITH page AS (
    SELECT o.operation_id, o.requested_at, coalesce(o.ended_at <= to_timestamp(%(cutoff_ms)s / 1000.0), false) AS old
    FROM ops.operations o
    WHERE o.requested_at <= to_timestamp(%(cutoff_ms)s / 1000.0)
      AND (%(after)s::text IS NULL OR (o.requested_at, o.operation_id)
           > (split_part(%(after)s, '|', 1)::timestamptz, split_part(%(after)s, '|', 2)))
    ORDER BY o.requested_at, o.operation_id LIMIT %(limit)s
), gone AS (
    DELETE FROM ops.operations o USING page p WHERE p.old AND o.operation_id = p.operation_id AND NOT %(dry_run)s)
SELECT count(*) FILTER (WHERE old) AS rows, count(*) = %(limit)s AS more,
       (SELECT requested_at || '|' || operation_id FROM page ORDER BY requested_at DESC, operation_id DESC LIMIT 1) AS after
FROM page
