-- The registry of executors. Every statement uses only the database's clock.

-- name: register_executor
-- Run in one transaction with take_lock, so that no session sees the row without its lock.
INSERT INTO ops.executors
    (executor_id, application, application_version, role, hostname, pid, port, slots,
     suspects_queue, trials_queue, leaf_queues, reports_ends)
VALUES (%(executor_id)s, %(application)s, %(version)s, %(role)s, %(hostname)s, %(pid)s, %(port)s, %(slots)s,
        %(suspects_queue)s, %(trials_queue)s, %(leaf_queues)s, true)
RETURNING lock_key

-- name: take_lock
-- The first liveness signal: the lock ends with the process, because the kernel closes its session. Lock class 7031
-- is Holdfast's.
SELECT pg_try_advisory_lock(7031, %(lock_key)s) AS held

-- name: database_uptime
-- Seconds since the server last ended all sessions: at its start, or at its own restart after a backend was killed,
-- which does not change the start time but discards the statistics.
SELECT extract(epoch FROM clock_timestamp() - greatest(pg_postmaster_start_time(), b.stats_reset))::float8 AS seconds,
       extract(epoch FROM clock_timestamp())::float8 AS database_time
FROM pg_stat_bgwriter b

-- name: send_heartbeat
-- The second liveness signal. If it returns no row, this executor was declared dead and must stop immediately. The
-- statement records that as fenced_at, because the stopped process cannot be asked later.
WITH fenced AS (
    UPDATE ops.executors SET fenced_at = clock_timestamp()
    WHERE executor_id = %(executor_id)s AND state = 'dead' AND fenced_at IS NULL)
UPDATE ops.executors SET heartbeat_at = clock_timestamp(), in_flight = %(in_flight)s, state = %(state)s
WHERE executor_id = %(executor_id)s AND state IN ('live', 'draining')
RETURNING desired_state, extract(epoch FROM clock_timestamp())::float8 AS database_time

-- name: poll_executors
-- Returns every executor that should be alive, of all applications, with the state of its two liveness signals. An
-- infinite heartbeat is a row's mistake: it counts as now or as old, and must not stop the poll.
SELECT e.executor_id, e.application, e.lock_key, l.pid AS lock_pid,
       extract(epoch FROM clock_timestamp()
           - greatest(least(e.heartbeat_at, clock_timestamp() + interval '1 day'), '2000-01-01Z'))::float8
           AS heartbeat_age_seconds,
       extract(epoch FROM clock_timestamp())::float8 AS database_time
FROM ops.executors e
LEFT JOIN pg_locks l ON l.locktype = 'advisory' AND l.classid = 7031 AND l.objid = e.lock_key::oid
    AND l.objsubid = 2 AND l.granted
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
WHERE e.state IN ('live', 'draining')

-- name: mark_dead
-- Declares an executor dead, unless it has come back since the poll: its lock is held again, or its heartbeat is
-- recent. A dead process has lost all its sessions. A process that still has other sessions lost only its lease
-- session: either it is about to acquire the lock again, or it hangs and its watchdog closed that session. Only one
-- of several sweepers gets a row. Sessions of other roles count too: every role can see their application_name.
UPDATE ops.executors e
SET state = 'dead', ended_at = clock_timestamp(), taken_over_by = %(by)s, taken_over_at = clock_timestamp(),
    in_flight = 0,
    reason = CASE WHEN %(reason)s = 'lock lost'
            AND e.heartbeat_at < clock_timestamp() - make_interval(secs => %(lease_seconds)s)
            AND EXISTS (SELECT FROM pg_stat_activity a
            WHERE a.datname = current_database()
              AND starts_with(a.application_name, 'holdfast/' || e.executor_id || '/'))
        THEN 'hung' ELSE %(reason)s END,
    lost_at = CASE WHEN %(reason)s = 'lock lost'
        THEN clock_timestamp() - make_interval(secs => %(missing_seconds)s) ELSE greatest(e.heartbeat_at, '2000-01-01Z') END
WHERE e.executor_id = %(executor_id)s AND e.state IN ('live', 'draining')
  AND CASE WHEN %(reason)s = 'lock lost'
      THEN NOT EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.classid = 7031
          AND l.objid = e.lock_key::oid AND l.objsubid = 2 AND l.granted
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))
        AND (e.heartbeat_at < clock_timestamp() - make_interval(secs => %(lease_seconds)s)
          OR NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datname = current_database()
            AND starts_with(a.application_name, 'holdfast/' || e.executor_id || '/')))
      ELSE e.heartbeat_at < clock_timestamp() - make_interval(secs => %(lease_seconds)s) END
RETURNING executor_id, application, application_version AS version, suspects_queue, trials_queue, leaf_queues,
          reason, lost_at, extract(epoch FROM taken_over_at - lost_at)::float8 AS takeover_seconds,
          (SELECT before.state = 'draining' FROM ops.executors before WHERE before.executor_id = e.executor_id) AS draining,
          -- whether its last heartbeat was before the database's start, see database_uptime
          e.heartbeat_at < (SELECT greatest(pg_postmaster_start_time(), b.stats_reset) FROM pg_stat_bgwriter b)
              AS never_came_back

-- name: end_sessions
-- Ends the sessions that a dead executor still holds (a paused process keeps its row locks). All its connections
-- have its id in their application_name.
SELECT count(pg_terminate_backend(pid)) AS ended FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user
  AND starts_with(application_name, 'holdfast/' || %(executor_id)s || '/') AND pid <> pg_backend_pid()

-- name: end_sessions_of_another_role
-- Ends the sessions of a dead executor of another application.
SELECT ops.end_sessions(%(executor_id)s) AS ended

-- name: leave
-- Records the end of an orderly stop.
UPDATE ops.executors SET state = 'drained', ended_at = clock_timestamp(), reason = %(reason)s, in_flight = 0,
    drain_seconds = %(drain_seconds)s
WHERE executor_id = %(executor_id)s AND state IN ('live', 'draining')
RETURNING executor_id

-- name: list_executors
-- Returns all live executors, then those that ended within the last hour. Live ones come first, so that many crashes
-- do not push them out of the limit.
SELECT executor_id, application, application_version, role, state, desired_state, hostname, pid, slots, in_flight,
       extract(epoch FROM clock_timestamp()
           - greatest(least(heartbeat_at, clock_timestamp() + interval '1 day'), '2000-01-01Z'))::float8
           AS heartbeat_age_seconds,
       started_at, ended_at, taken_over_by, taken_over_at, reason
FROM ops.executors
WHERE (state IN ('live', 'draining') OR ended_at > clock_timestamp() - make_interval(mins => 60))
  AND (%(application)s::text[] IS NULL OR application = ANY (%(application)s))
ORDER BY ended_at IS NOT NULL, started_at DESC LIMIT 500

-- name: live_version
-- Returns the version of an application for new work: the preferred one if a live executor runs it, else the newest.
SELECT e.application_version AS version
FROM ops.executors e LEFT JOIN dbos.application_versions v ON v.version_name = e.application_version
WHERE e.application = %(application)s AND e.state = 'live'
  AND e.heartbeat_at > statement_timestamp() - make_interval(secs => 2 * %(lease_seconds)s)
ORDER BY (e.application_version = %(prefer)s) IS TRUE DESC, v.version_timestamp DESC NULLS LAST, e.started_at DESC LIMIT 1

-- name: known_applications
-- Returns the applications that have launched on this database, or registered an executor.
SELECT application_name AS application FROM dbos.application_versions WHERE application_name IS NOT NULL
UNION SELECT application FROM ops.executors ORDER BY 1

-- name: request_drain
UPDATE ops.executors SET desired_state = 'draining'
WHERE executor_id = %(executor_id)s AND state IN ('live', 'draining') AND desired_state <> 'crashed'
RETURNING executor_id, application, state

-- name: request_crash
UPDATE ops.executors SET desired_state = 'crashed'
WHERE executor_id = %(executor_id)s AND state IN ('live', 'draining')
RETURNING executor_id, application, state

-- name: settle_latest_version
-- Makes the newest version with a live executor the latest of its application, as DBOS's
-- set_latest_application_version does, but on the database's clock. It does so only if no live executor runs the
-- latest version, or (`starting`) if the latest is the older one. A draining executor does not count, because it
-- claims nothing. Heartbeats do not count, because all are old after an outage. An executor registers before its
-- version does, so a version that is just starting counts as live.
WITH latest AS (
    SELECT version_name, version_timestamp, created_at FROM dbos.application_versions
    WHERE application_name = %(application)s OR application_name IS NULL
    ORDER BY version_timestamp DESC LIMIT 1
), alive AS (
    SELECT version_name, created_at FROM dbos.application_versions v
    WHERE v.application_name = %(application)s AND EXISTS (
        SELECT FROM ops.executors e WHERE e.application = %(application)s
          AND e.application_version = v.version_name AND e.state = 'live')
)
UPDATE dbos.application_versions v
SET version_timestamp = greatest((extract(epoch FROM clock_timestamp()) * 1000)::bigint, l.version_timestamp + 1)
FROM latest l
WHERE v.application_name = %(application)s AND v.version_name <> l.version_name
  AND v.version_name = (SELECT version_name FROM alive ORDER BY created_at DESC, version_name DESC LIMIT 1)
  AND (NOT EXISTS (SELECT FROM alive a WHERE a.version_name = l.version_name)
       OR %(starting)s AND v.created_at > l.created_at)
RETURNING v.version_name AS version, l.version_name AS before

-- name: fold_ended
-- Keeps the table small from which a scrape reads how often workflows ended.
SELECT ops.fold_ended() AS more
