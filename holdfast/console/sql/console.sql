-- Queries of the console's reader while a page is open. Each is bounded by a limit and uses an index, also with a
-- million finished workflows.

-- name: console_executors
-- Returns live executors and those that ended within the window, at least one row, which has the database's clock.
SELECT extract(epoch FROM t.now)::float8 AS now, e.executor_id, e.application, e.role,
       e.application_version AS version, e.state, e.hostname, e.pid, e.slots, e.in_flight,
       extract(epoch FROM e.heartbeat_at)::float8 AS heartbeat_at,
       extract(epoch FROM e.started_at)::float8 AS started_at, extract(epoch FROM e.ended_at)::float8 AS ended_at,
       extract(epoch FROM e.lost_at)::float8 AS lost_at, e.taken_over_by,
       extract(epoch FROM e.taken_over_at)::float8 AS taken_over_at,
       extract(epoch FROM e.taken_over_at - e.lost_at)::float8 AS takeover_seconds, e.reason
FROM (SELECT clock_timestamp() AS now) AS t
LEFT JOIN LATERAL (
    (SELECT * FROM ops.executors WHERE state IN ('live', 'draining') ORDER BY started_at LIMIT %(limit)s)
    UNION ALL
    (SELECT * FROM ops.executors WHERE ended_at > t.now - make_interval(secs => %(window_seconds)s)
     ORDER BY ended_at DESC LIMIT %(limit)s)) AS e ON true

-- name: console_attempts
-- Returns workflows that run now, and those that started since the last poll (they may have ended in between). DBOS
-- stores no start for a direct call, which starts when it is created. The third part reads a bounded number of rows,
-- because no index distinguishes direct calls.
WITH chosen AS (
    (SELECT workflow_uuid FROM dbos.workflow_status WHERE status = 'PENDING'
     ORDER BY created_at DESC LIMIT %(limit)s)
    UNION
    (SELECT workflow_uuid FROM dbos.workflow_status WHERE started_at_epoch_ms > %(since_ms)s
     ORDER BY started_at_epoch_ms DESC LIMIT %(limit)s)
    UNION
    (SELECT workflow_uuid
     FROM (SELECT workflow_uuid, started_at_epoch_ms, queue_name, status FROM dbos.workflow_status
           WHERE created_at > %(since_ms)s ORDER BY created_at DESC LIMIT 5000) AS recent
     WHERE started_at_epoch_ms IS NULL AND queue_name IS NULL AND status IN ('SUCCESS', 'ERROR')
     LIMIT %(limit)s))
SELECT w.workflow_uuid AS workflow_id, w.name, w.class_name, w.config_name AS instance_name, w.status,
       w.executor_id, w.queue_name AS queue, w.recovery_attempts AS attempts,
       CASE WHEN w.started_at_epoch_ms IS NOT NULL THEN w.started_at_epoch_ms
            WHEN w.queue_name IS NULL AND w.status IN ('PENDING', 'SUCCESS', 'ERROR') THEN w.created_at
            END AS started_ms,
       w.completed_at AS ended_ms
FROM chosen c JOIN dbos.workflow_status w USING (workflow_uuid)
WHERE w.name IS DISTINCT FROM %(tick)s

-- name: console_attempts_of
-- Returns the present state of these workflows.
SELECT w.workflow_uuid AS workflow_id, w.name, w.class_name, w.config_name AS instance_name, w.status,
       w.executor_id, w.queue_name AS queue, w.recovery_attempts AS attempts,
       CASE WHEN w.started_at_epoch_ms IS NOT NULL THEN w.started_at_epoch_ms
            WHEN w.queue_name IS NULL AND w.status IN ('PENDING', 'SUCCESS', 'ERROR') THEN w.created_at
            END AS started_ms,
       w.completed_at AS ended_ms
FROM dbos.workflow_status w WHERE w.workflow_uuid = ANY (%(workflow_ids)s)

-- name: console_more
-- Counts workflows that are too many to show one by one: those started after one time and before another.
SELECT executor_id, (started_at_epoch_ms / (1000 * %(bucket_seconds)s)) * %(bucket_seconds)s AS bucket,
       count(*) AS workflows
FROM (SELECT executor_id, started_at_epoch_ms FROM dbos.workflow_status
      WHERE started_at_epoch_ms > %(after_ms)s AND started_at_epoch_ms < %(before_ms)s
        AND status <> 'PENDING' AND name IS DISTINCT FROM %(tick)s
      ORDER BY started_at_epoch_ms DESC LIMIT %(limit)s) AS counted
WHERE executor_id IS NOT NULL GROUP BY 1, 2

-- name: console_inputs
-- Returns the beginning of the inputs, for the labels.
SELECT workflow_uuid AS workflow_id, left(inputs, 400) AS inputs FROM dbos.workflow_input
WHERE workflow_uuid = ANY (%(workflow_ids)s)

-- name: console_moves
-- Returns moves of work away from an executor: those since the last poll, and those not claimed again by then.
SELECT h.handover_id, h.workflow_id, h.workflow_name AS name, h.kind, h.reason, h.from_executor, h.released_by,
       h.to_executor, round(extract(epoch FROM h.started_at) * 1000)::bigint AS started_ms,
       extract(epoch FROM h.lost_at)::float8 AS lost_at, extract(epoch FROM h.released_at)::float8 AS released_at,
       extract(epoch FROM h.claimed_at)::float8 AS claimed_at,
       extract(epoch FROM coalesce(e.taken_over_at, h.released_at) - h.lost_at)::float8 AS takeover_seconds,
       1 + (SELECT count(*) FROM ops.handovers earlier WHERE earlier.workflow_id = h.workflow_id
            AND earlier.handover_id < h.handover_id AND earlier.started_at IS NOT NULL) AS attempt,
       (SELECT w.status FROM dbos.workflow_status w WHERE w.workflow_uuid = h.workflow_id) AS status
FROM ((SELECT * FROM ops.handovers WHERE released_at > to_timestamp(%(since)s)
       ORDER BY released_at DESC LIMIT %(limit)s)
      UNION
      (SELECT * FROM ops.handovers WHERE handover_id = ANY (%(open_ids)s::bigint[]))) AS h
LEFT JOIN ops.executors e ON e.executor_id = h.from_executor AND h.kind = 'takeover'
ORDER BY h.handover_id

-- name: console_moves_of
-- Returns every move of one workflow, oldest first.
SELECT h.handover_id, h.workflow_id, h.workflow_name AS name, h.kind, h.reason, h.from_executor, h.released_by,
       h.to_executor, round(extract(epoch FROM h.started_at) * 1000)::bigint AS started_ms,
       extract(epoch FROM h.lost_at)::float8 AS lost_at, extract(epoch FROM h.released_at)::float8 AS released_at,
       extract(epoch FROM h.claimed_at)::float8 AS claimed_at,
       extract(epoch FROM coalesce(e.taken_over_at, h.released_at) - h.lost_at)::float8 AS takeover_seconds,
       count(h.started_at) OVER (ORDER BY h.handover_id) AS attempt,
       (SELECT w.status FROM dbos.workflow_status w WHERE w.workflow_uuid = h.workflow_id) AS status
FROM ops.handovers h
LEFT JOIN ops.executors e ON e.executor_id = h.from_executor AND h.kind = 'takeover'
WHERE h.workflow_id = %(workflow_id)s ORDER BY h.handover_id LIMIT 200

-- name: console_pulses
SELECT extract(epoch FROM scheduled_at)::float8 AS scheduled_at, status, lateness_seconds, executor_id,
       queue_depth, extract(epoch FROM started_at)::float8 AS started_at
FROM ops.pulses WHERE scheduled_at > to_timestamp(%(since)s) ORDER BY scheduled_at DESC LIMIT 1000

-- name: console_unfinished
-- Counts waiting and running work by queue.
SELECT status, coalesce(queue_name, '') AS queue, coalesce(application_name, '') AS application,
       count(*) AS workflows,
       (extract(epoch FROM clock_timestamp()) - min(created_at) / 1000.0)::float8 AS oldest_age_seconds
FROM dbos.workflow_status WHERE status IN ('ENQUEUED', 'PENDING') GROUP BY 1, 2, 3

-- name: console_counts
SELECT (SELECT count(*) FROM dbos.workflow_status WHERE status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED') AS parked,
       (SELECT count(*) FROM dbos.workflow_status w WHERE w.status = 'PENDING'
          AND (w.application_name IS NULL OR w.application_name IN (SELECT name FROM ops.protected)) AND NOT EXISTS (
            SELECT FROM ops.executors e WHERE e.executor_id = w.executor_id AND e.state IN ('live', 'draining')
              AND e.heartbeat_at > statement_timestamp() - make_interval(secs => 2 * %(lease_seconds)s)))
           AS orphaned,
       (SELECT coalesce(sum(workflows), 0)::bigint FROM ops.stranded_work(%(lease_seconds)s)) AS stranded

-- name: console_root
-- Returns the topmost ancestor of a workflow, at most 50 levels up.
WITH RECURSIVE up AS (
    SELECT workflow_uuid, parent_workflow_id, 0 AS level FROM dbos.workflow_status
    WHERE workflow_uuid = %(workflow_id)s
    UNION ALL
    SELECT w.workflow_uuid, w.parent_workflow_id, up.level + 1
    FROM up JOIN dbos.workflow_status w ON w.workflow_uuid = up.parent_workflow_id WHERE up.level < 50)
SELECT workflow_uuid AS root_id, extract(epoch FROM clock_timestamp())::float8 AS now
FROM up ORDER BY level DESC LIMIT 1

-- name: console_tree
-- Returns a workflow and its descendants, level by level. Parents in a circle come once each.
WITH RECURSIVE down AS (
    SELECT w.workflow_uuid, 0 AS level FROM dbos.workflow_status w WHERE w.workflow_uuid = %(workflow_id)s
    UNION ALL
    SELECT w.workflow_uuid, down.level + 1
    FROM down JOIN dbos.workflow_status w ON w.parent_workflow_id = down.workflow_uuid WHERE down.level < 50),
chosen AS (SELECT workflow_uuid, min(level) AS level FROM (SELECT * FROM down LIMIT %(limit)s) AS bounded GROUP BY 1)
SELECT w.workflow_uuid AS workflow_id, c.level, w.parent_workflow_id, w.name, w.class_name,
       w.config_name AS instance_name, w.status, w.executor_id, w.queue_name AS queue, w.application_name AS application,
       w.application_version AS version, w.recovery_attempts AS attempts, w.created_at AS created_ms,
       CASE WHEN w.started_at_epoch_ms IS NOT NULL THEN w.started_at_epoch_ms
            WHEN w.queue_name IS NULL AND w.status IN ('PENDING', 'SUCCESS', 'ERROR') THEN w.created_at
            END AS started_ms, w.completed_at AS ended_ms, left(i.inputs, 400) AS inputs
FROM chosen c JOIN dbos.workflow_status w USING (workflow_uuid)
LEFT JOIN dbos.workflow_input i USING (workflow_uuid)
ORDER BY c.level, w.created_at, w.workflow_uuid

-- name: console_states
SELECT executor_id, state FROM ops.executors WHERE executor_id = ANY (%(executor_ids)s)

-- name: console_stranded
-- Returns whether a workflow waits for a version without an executor, by the same strict rule as `adopt`.
SELECT EXISTS (
    SELECT FROM dbos.workflow_status w
    WHERE w.workflow_uuid = %(workflow_id)s AND w.status IN ('ENQUEUED', 'PENDING')
      AND w.application_version IS NOT NULL AND NOT EXISTS (
          SELECT FROM ops.executors e WHERE e.application = w.application_name
            AND e.application_version = w.application_version AND e.state IN ('live', 'draining'))) AS stranded

-- name: list_workflows
-- Returns a page of workflows, newest first. Workflows of one millisecond are ordered by id, so that a cursor skips
-- none.
SELECT p.workflow_uuid AS workflow_id, p.name, p.status, p.class_name, p.config_name AS instance_name,
       p.application_name AS application, p.application_version, p.queue_name, p.executor_id,
       p.recovery_attempts AS attempts, p.parent_workflow_id, p.forked_from, p.created_at,
       p.started_at_epoch_ms AS started_at, p.completed_at, p.delay_until_epoch_ms AS delay_until,
       v.kind AS wait_kind, v.subject AS wait_subject, v.since AS wait_since, v.until AS wait_until
FROM (
    SELECT * FROM dbos.workflow_status
    WHERE (%(application)s::text[] IS NULL OR application_name = ANY (%(application)s))
      AND (%(status)s::text[] IS NULL OR status = ANY (%(status)s))
      AND (%(name)s::text[] IS NULL OR name = ANY (%(name)s))
      AND (%(queue)s::text[] IS NULL OR queue_name = ANY (%(queue)s))
      AND (%(executor_id)s::text[] IS NULL OR executor_id = ANY (%(executor_id)s))
      AND (%(prefix)s::text IS NULL OR starts_with(workflow_uuid, %(prefix)s))
      AND (%(before_ms)s::bigint IS NULL
           OR created_at <= %(before_ms)s AND (created_at, workflow_uuid) < (%(before_ms)s, %(before_id)s))
    ORDER BY created_at DESC, workflow_uuid DESC LIMIT %(limit)s OFFSET %(offset)s) AS p
LEFT JOIN ops.waits v ON v.workflow_id = p.workflow_uuid AND v.owner_xid = p.owner_xid AND p.status = 'PENDING'
ORDER BY p.created_at DESC, p.workflow_uuid DESC
