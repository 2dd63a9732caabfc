-- Moves work away from an executor that will not finish it. All statements run in one transaction with the verdict
-- on the executor, so that a sweeper that dies in between leaves nothing half done.

-- name: unfinished_work
-- Locks and returns the workflows that an executor was running, with the data for the verdict on poison. A waiting
-- workflow has a row in ops.waits, which is locked too: an execution deletes that row before it continues, so it
-- either continues here or is released, never both. An execution that has not reported yet whether it waits is
-- assumed to wait if the one before it did (`published` is false), but not forever: a workflow that ends its process
-- before it waits again is counted from the sixth time on. `only` restricts the statement to these ids,
-- `only_waiting` to executions that reported a wait. No other rows are locked, since thousands may wait beside them.
-- `limited` checks for the shared limits that this version of DBOS has.
WITH waiting AS (
    SELECT x.workflow_id, x.owner_xid = w.owner_xid AS published FROM ops.waits x
    JOIN dbos.workflow_status w ON w.workflow_uuid = x.workflow_id
        AND (x.owner_xid = w.owner_xid OR x.owner_xid = '' AND x.releases <= 5)
    WHERE w.status = 'PENDING' AND w.executor_id = %(executor_id)s
      AND (%(only)s::text[] IS NULL OR w.workflow_uuid = ANY (%(only)s))
      AND (NOT %(only_waiting)s OR x.owner_xid = w.owner_xid)
    ORDER BY 1 FOR UPDATE OF x)
SELECT w.workflow_uuid AS workflow_id, w.name, w.queue_name, c.queue_name AS home_queue,
       coalesce(c.crashes, 0) AS crashes, coalesce(c.steps_recorded, 0) AS steps_at_last_crash,
       coalesce(c.trial_xid = w.owner_xid, false) AS trial_started,
       (SELECT count(*) FROM dbos.operation_outputs o WHERE o.workflow_uuid = w.workflow_uuid) AS steps_recorded,
       x.workflow_id IS NOT NULL AS waits, w.deduplication_id IS NOT NULL AS deduplicated,
       EXISTS (SELECT FROM dbos.queues q, jsonb_each(to_jsonb(q)) AS setting
               WHERE q.name = coalesce(c.queue_name, w.queue_name) AND setting.value <> 'null'
                 AND setting.key IN ('concurrency', 'rate_limit_max', 'partition_concurrency',
                                     'partition_rate_limit_max')) AS limited
FROM dbos.workflow_status w
LEFT JOIN waiting x ON x.workflow_id = w.workflow_uuid
LEFT JOIN ops.crashes c ON c.workflow_id = w.workflow_uuid
WHERE w.status = 'PENDING' AND w.executor_id = %(executor_id)s
  AND w.application_name = %(application)s AND w.application_version = %(version)s
  AND (%(only)s::text[] IS NULL OR w.workflow_uuid = ANY (%(only)s))
  AND (NOT %(only_waiting)s OR x.published)
ORDER BY w.created_at
FOR UPDATE OF w

-- name: keep_waits
-- Keeps the wait rows of workflows that are released as waiting, for the next execution, until that execution reports
-- a wait itself or starts a step.
UPDATE ops.waits SET owner_xid = '', releases = releases + 1 WHERE workflow_id = ANY (%(workflow_ids)s)
RETURNING workflow_id

-- name: release_work
-- Returns workflows to a queue as DBOS's own recovery does (SystemDatabase.reenqueue_for_recovery, 3.4.0; a contract
-- test compares the two), but many rows in one statement and with a queue for each. Rows without a priority (0) go
-- to the front of the queue, so that started work continues first: by age alone it would wait for the rest of its
-- batch, which was stored in the same millisecond. A priority that the caller set stays. A workflow that only waited
-- gets the attempt of its claim back, so that DBOS's `max_recovery_attempts` counts no restart during a long wait. The
-- first attempt stays: a later claim is known by it.
WITH waited AS (
    DELETE FROM ops.waits WHERE workflow_id = ANY (%(workflow_ids)s) AND owner_xid <> '')
UPDATE dbos.workflow_status w
SET status = 'ENQUEUED', owner_xid = NULL, started_at_epoch_ms = NULL,
    priority = CASE WHEN w.priority > 0 THEN w.priority ELSE -1 END,
    updated_at = (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
    queue_name = r.queue_name,
    recovery_attempts = CASE WHEN r.waits THEN greatest(w.recovery_attempts, 2) - 1 ELSE w.recovery_attempts END
FROM unnest(%(workflow_ids)s::text[], %(queues)s::text[], %(waits)s::bool[]) AS r (workflow_id, queue_name, waits)
WHERE w.workflow_uuid = r.workflow_id AND w.status = 'PENDING' AND w.executor_id = %(executor_id)s
RETURNING w.workflow_uuid AS workflow_id

-- name: delay_work
-- Delays the next claim of workflows that were just released, with DBOS's own status, which ends by itself.
UPDATE dbos.workflow_status
SET status = 'DELAYED',
    delay_until_epoch_ms = ((extract(epoch FROM clock_timestamp()) + %(seconds)s) * 1000)::bigint
WHERE workflow_uuid = ANY (%(workflow_ids)s) AND status = 'ENQUEUED'

-- name: park_work
-- Parks poison as DBOS does with dead letters (SystemDatabase.dead_letter_workflows, 3.4.0).
UPDATE dbos.workflow_status
SET status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED', owner_xid = NULL, deduplication_id = NULL,
    started_at_epoch_ms = NULL, queue_name = NULL,
    updated_at = (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
    completed_at = (extract(epoch FROM clock_timestamp()) * 1000)::bigint
WHERE workflow_uuid = ANY (%(workflow_ids)s) AND status = 'PENDING' AND executor_id = %(executor_id)s
RETURNING workflow_uuid AS workflow_id

-- name: count_crashes
INSERT INTO ops.crashes AS c (workflow_id, crashes, steps_recorded, queue_name, parked_at)
SELECT r.workflow_id, r.crashes, r.steps, r.queue_name, CASE WHEN r.parked THEN clock_timestamp() END
FROM unnest(%(workflow_ids)s::text[], %(crashes)s::int[], %(steps)s::int[], %(queues)s::text[], %(parked)s::bool[])
    AS r (workflow_id, crashes, steps, queue_name, parked)
ON CONFLICT (workflow_id) DO UPDATE SET crashes = excluded.crashes, steps_recorded = excluded.steps_recorded,
    last_crash_at = clock_timestamp(), parked_at = excluded.parked_at,
    queue_name = coalesce(c.queue_name, excluded.queue_name)

-- name: count_strays
-- Counts how often each workflow was released because it was not running where it was claimed, including this time. A
-- new step in between resets the count.
INSERT INTO ops.crashes AS c (workflow_id, crashes, steps_recorded, strays, stray_steps)
SELECT r.workflow_id, 0, 0, 1,
       (SELECT count(*) FROM dbos.operation_outputs o WHERE o.workflow_uuid = r.workflow_id)
FROM unnest(%(workflow_ids)s::text[]) AS r (workflow_id)
ON CONFLICT (workflow_id) DO UPDATE SET stray_steps = excluded.stray_steps,
    strays = CASE WHEN excluded.stray_steps > c.stray_steps THEN 1 ELSE c.strays + 1 END
RETURNING workflow_id, strays

-- name: start_trial
-- Runs before the trial starts. It stores the claim's token: after another claim by this executor the workflow is on
-- trial only once it starts again.
UPDATE ops.crashes SET trial_xid = %(owner_xid)s WHERE workflow_id = %(workflow_id)s

-- name: home_queue
SELECT queue_name FROM ops.crashes WHERE workflow_id = %(workflow_id)s AND queue_name IS NOT NULL

-- name: home_queues
-- Returns the queue of each workflow: that to which it returns if it was moved, parked or cancelled.
SELECT w.workflow_uuid AS workflow_id, coalesce(c.queue_name, w.queue_name) AS queue_name
FROM dbos.workflow_status w LEFT JOIN ops.crashes c ON c.workflow_id = w.workflow_uuid
WHERE w.workflow_uuid = ANY (%(workflow_ids)s)

-- name: forget_crashes
-- Resets the counts of workflows that an operator resumes, and keeps their queues: this row is their only record until
-- the resume is stored.
UPDATE ops.crashes c SET crashes = 0, steps_recorded = 0, strays = 0, stray_steps = 0, trial_xid = NULL,
    parked_at = NULL, queue_name = r.queue_name
FROM unnest(%(workflow_ids)s::text[], %(queues)s::text[]) AS r (workflow_id, queue_name)
WHERE c.workflow_id = r.workflow_id RETURNING c.queue_name

-- name: record_handovers
-- Runs before the work is released, because the release deletes its start time. A name may be missing, and a time may
-- be no time: other applications write these columns too.
INSERT INTO ops.handovers
    (workflow_id, workflow_name, kind, reason, from_executor, released_by, lost_at, started_at)
SELECT r.workflow_id, coalesce(r.workflow_name, ''), %(kind)s, %(reason)s, %(executor_id)s, %(by)s,
       coalesce(%(lost_at)s, clock_timestamp()),
       CASE WHEN w.status = 'PENDING' THEN to_timestamp(
           least(greatest(coalesce(w.started_at_epoch_ms, w.created_at), 0), 253402300799000) / 1000.0) END
FROM unnest(%(workflow_ids)s::text[], %(workflow_names)s::text[]) AS r (workflow_id, workflow_name)
LEFT JOIN dbos.workflow_status w ON w.workflow_uuid = r.workflow_id

-- name: orphans
-- Returns the executors of running work that are not live (an anti-join), for applications that register executors.
-- Other DBOS applications in the same database are left alone. An executor without a row is not `registered`: it may be
-- a live process without Holdfast. The stack has no such processes: there the row is gone with a restored backup.
SELECT DISTINCT w.executor_id, w.application_name AS application, w.application_version AS version,
       gone.suspects_queue, gone.trials_queue, gone.leaf_queues,
       gone.executor_id IS NOT NULL OR EXISTS (
           SELECT FROM ops.applications a WHERE a.name = w.application_name AND a.kind = 'stack') AS registered
FROM dbos.workflow_status w
LEFT JOIN ops.executors gone ON gone.executor_id = w.executor_id
WHERE w.status = 'PENDING' AND w.executor_id IS NOT NULL AND w.application_version IS NOT NULL
  AND (gone.executor_id IS NULL OR gone.state NOT IN ('live', 'draining'))
  AND EXISTS (SELECT FROM ops.executors e WHERE e.application = w.application_name)

-- name: plain_sessions
-- Whether a DBOS application without Holdfast is connected to this database: by DBOS's own session name, which every
-- role can see, or by its listener where the application's options leave it without a name.
SELECT count(*) > 0 AS connected FROM pg_stat_activity
WHERE datname = current_database()
  AND (application_name = 'dbos_transact' OR application_name = '' AND starts_with(query, 'LISTEN dbos'))

-- name: own_work
-- Returns the workflows that are recorded as running here, each with the token of its claim and its queue.
SELECT w.workflow_uuid AS workflow_id, w.owner_xid, w.queue_name,
       EXISTS (SELECT FROM ops.waits x WHERE x.workflow_id = w.workflow_uuid AND x.owner_xid = w.owner_xid) AS waits
FROM dbos.workflow_status w
WHERE w.status = 'PENDING' AND w.executor_id = %(executor_id)s
  AND w.application_name = %(application)s AND w.application_version = %(version)s

-- name: stranded
-- Counts unfinished work that no live executor can run, with the reason (sql/migrations/018_stranded.sql).
SELECT * FROM ops.stranded_work(%(lease_seconds)s)

-- name: scan_stranded
-- Returns stranded work that no executor can run: all executors of its version were drained or declared dead. Silence
-- alone is not enough, because a silent executor may come back. Any live executor of the application declares
-- it dead.
SELECT w.workflow_uuid AS workflow_id FROM dbos.workflow_status w
WHERE w.status IN ('ENQUEUED', 'PENDING') AND w.application_name = %(application)s
  AND w.application_version = %(from_version)s
  AND (%(only)s::text IS NULL OR w.workflow_uuid = %(only)s)
  AND NOT EXISTS (SELECT FROM ops.executors e
                  WHERE e.application = w.application_name AND e.application_version = w.application_version
                    AND e.state IN ('live', 'draining'))
LIMIT %(limit)s

-- name: adopt
-- Moves those of these workflows that are stranded, as above, to another version of their application, and keeps their
-- ids (a fork would change them). Rows that other work has locked stay.
WITH mine AS (
    SELECT w.workflow_uuid FROM dbos.workflow_status w
    WHERE w.workflow_uuid = ANY (%(workflow_ids)s) AND w.status IN ('ENQUEUED', 'PENDING')
      AND w.application_name = %(application)s AND w.application_version = %(from_version)s
      AND %(from_version)s <> %(to_version)s
      AND NOT EXISTS (SELECT FROM ops.executors e
                      WHERE e.application = %(application)s AND e.application_version = %(from_version)s
                        AND e.state IN ('live', 'draining'))
    ORDER BY w.workflow_uuid FOR NO KEY UPDATE OF w SKIP LOCKED)
UPDATE dbos.workflow_status w
SET status = 'ENQUEUED', application_version = %(to_version)s, owner_xid = NULL, started_at_epoch_ms = NULL,
    updated_at = (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
    queue_name = coalesce(w.queue_name, '_dbos_internal_queue')
FROM mine m WHERE w.workflow_uuid = m.workflow_uuid
RETURNING w.workflow_uuid AS workflow_id, w.name AS workflow_name, coalesce(w.executor_id, '') AS executor_id

-- name: adoptable_versions
-- Returns the versions of an application that have unfinished work and have had no live executor for that time, if
-- this version is the latest one.
SELECT w.application_version AS version
FROM dbos.workflow_status w
WHERE w.status IN ('ENQUEUED', 'PENDING') AND w.application_name = %(application)s
  AND w.application_version <> %(version)s
  AND %(version)s = (SELECT v.version_name FROM dbos.application_versions v
                     WHERE v.application_name = %(application)s OR v.application_name IS NULL
                     ORDER BY v.version_timestamp DESC LIMIT 1)
GROUP BY 1
HAVING NOT EXISTS (SELECT FROM ops.executors e
                   WHERE e.application = %(application)s AND e.application_version = w.application_version
                     AND e.state IN ('live', 'draining'))
   AND coalesce((SELECT max(coalesce(e.ended_at, e.heartbeat_at)) FROM ops.executors e
                 WHERE e.application = %(application)s AND e.application_version = w.application_version),
                to_timestamp(least(greatest(max(w.updated_at), 0), 253402300799000) / 1000.0)) < clock_timestamp() - make_interval(secs => %(after_seconds)s)
