-- The invariants of a Holdfast database, for `holdfast verify`. All queries only read. Each is one pass over
-- an index or a table, fast enough at 1e5 workflows. "Finished" means SUCCESS, ERROR, CANCELLED or parked. A
-- value that is not JSON (a planted pickle, for example) counts as wrong and must not end the audit. Hence
-- pg_input_is_valid.

-- name: audit_requests
-- Counts idempotency keys, and violations of one workflow per key. A key without a workflow was claimed by a
-- request that died before it enqueued, so the request was never answered with 2xx.
SELECT count(*) AS keys, count(*) - count(DISTINCT r.workflow_id) AS shared,
       count(*) FILTER (WHERE w.workflow_uuid IS NULL) AS without_workflow
FROM ops.requests r LEFT JOIN dbos.workflow_status w ON w.workflow_uuid = r.workflow_id

-- name: audit_accepted
-- Returns the status of these ids. A missing workflow has no status; one that an operator deleted is not missing.
SELECT a.workflow_id, w.status, w.name AS workflow_name
FROM unnest(%(workflow_ids)s::text[]) AS a (workflow_id)
LEFT JOIN dbos.workflow_status w ON w.workflow_uuid = a.workflow_id
WHERE w.status IS DISTINCT FROM 'SUCCESS'
  AND (w.status IS NOT NULL OR NOT EXISTS (
        SELECT FROM ops.operations o WHERE o.kind = 'delete' AND o.arguments ->> 'workflow_id' = a.workflow_id))

-- name: audit_unfinished
SELECT w.status, w.name AS workflow_name, count(*) AS workflows,
       (extract(epoch FROM clock_timestamp()) - min(w.created_at) / 1000.0)::float8 AS oldest_age_seconds
FROM dbos.workflow_status w WHERE w.status IN ('ENQUEUED', 'PENDING', 'DELAYED') GROUP BY 1, 2 ORDER BY 1, 2

-- name: audit_batches
-- Returns finished batches that do not have exactly one finished child per number, unless an operator deleted one.
SELECT b.workflow_uuid AS workflow_id, jsonb_array_length(i.given) AS wanted,
       count(c.workflow_uuid) FILTER (WHERE c.status = 'SUCCESS') AS succeeded
FROM dbos.workflow_status b
JOIN (SELECT workflow_uuid,
             CASE WHEN pg_input_is_valid(inputs, 'jsonb') THEN inputs::jsonb -> 'positionalArgs' -> 0 END AS given
      FROM dbos.workflow_input) AS i ON i.workflow_uuid = b.workflow_uuid
LEFT JOIN dbos.workflow_status c ON c.parent_workflow_id = b.workflow_uuid
WHERE b.name = %(batch)s AND b.status = 'SUCCESS' AND b.forked_from IS NULL
  AND NOT EXISTS (SELECT FROM ops.operations o
                  WHERE o.kind = 'delete' AND o.arguments ->> 'parent_workflow_id' = b.workflow_uuid)
GROUP BY 1, 2
HAVING count(c.workflow_uuid) FILTER (WHERE c.status = 'SUCCESS') IS DISTINCT FROM jsonb_array_length(i.given)
LIMIT 20

-- name: audit_steps
SELECT count(*) AS steps, count(*) - count(DISTINCT (workflow_uuid, function_id)) AS doubled
FROM dbos.operation_outputs

-- name: audit_scope_steps
-- Returns finished scope workflows that do not have one recorded output per step.
SELECT w.workflow_uuid AS workflow_id, i.wanted, count(o.function_id) AS recorded
FROM dbos.workflow_status w
JOIN (SELECT workflow_uuid, CASE WHEN pg_input_is_valid(inputs, 'jsonb')
                                 THEN (inputs::jsonb -> 'positionalArgs' ->> 0)::bigint END AS wanted
      FROM dbos.workflow_input) AS i ON i.workflow_uuid = w.workflow_uuid
LEFT JOIN dbos.operation_outputs o ON o.workflow_uuid = w.workflow_uuid
WHERE w.name = ANY (%(names)s) AND w.status = 'SUCCESS'
GROUP BY 1, 2
HAVING count(o.function_id) IS DISTINCT FROM i.wanted
LIMIT 20

-- name: audit_listings
-- Returns finished listings that do not have as many finished pages as their report counts, each with its
-- sums recorded once, or whose pages do not add up to the report; unless an operator deleted a page.
WITH listings AS (
    SELECT w.workflow_uuid, CASE WHEN pg_input_is_valid(o.output, 'jsonb') THEN o.output::jsonb END AS report
    FROM dbos.workflow_status w JOIN dbos.workflow_output o ON o.workflow_uuid = w.workflow_uuid
    WHERE w.name = %(listing)s AND w.status = 'SUCCESS' AND w.forked_from IS NULL
      AND NOT EXISTS (SELECT FROM ops.operations o
                      WHERE o.kind = 'delete' AND o.arguments ->> 'parent_workflow_id' = w.workflow_uuid)
), pages AS (
    SELECT c.parent_workflow_id, c.workflow_uuid, count(s.function_id) AS recorded,
           max(CASE WHEN pg_input_is_valid(s.output, 'jsonb') THEN (s.output::jsonb ->> 'keys')::bigint END) AS keys,
           max(CASE WHEN pg_input_is_valid(s.output, 'jsonb') THEN (s.output::jsonb ->> 'bytes')::bigint END) AS bytes
    FROM dbos.workflow_status c
    LEFT JOIN dbos.operation_outputs s ON s.workflow_uuid = c.workflow_uuid AND s.output IS NOT NULL
    WHERE c.name = %(page)s AND c.status = 'SUCCESS'
      AND c.parent_workflow_id IN (SELECT workflow_uuid FROM listings)
    GROUP BY 1, 2
)
SELECT l.workflow_uuid AS workflow_id, (l.report ->> 'pages')::bigint AS wanted, count(p.workflow_uuid) AS pages,
       (l.report ->> 'keys')::bigint AS reported, coalesce(sum(p.keys), 0)::bigint AS keys
FROM listings l LEFT JOIN pages p ON p.parent_workflow_id = l.workflow_uuid
GROUP BY l.workflow_uuid, l.report
HAVING (count(p.workflow_uuid), coalesce(sum(p.keys), 0), coalesce(sum(p.bytes), 0),
        count(*) FILTER (WHERE p.recorded <> 1))
    IS DISTINCT FROM ((l.report ->> 'pages')::bigint, (l.report ->> 'keys')::numeric,
        (l.report ->> 'bytes')::numeric, 0::bigint)
LIMIT 20

-- name: audit_effects
-- Each number that succeeded has one recorded computation and one effect that agrees with it. A sequence has
-- as many of both as it has numbers. A fork may start after the effect, which then belongs to its original.
WITH numbers AS (
    SELECT workflow_uuid, status, forked_from, 1 AS wanted FROM dbos.workflow_status WHERE name = %(number)s
    UNION ALL
    SELECT workflow_uuid, status, forked_from,
           CASE WHEN pg_input_is_valid(i.inputs, 'jsonb')
                THEN jsonb_array_length(i.inputs::jsonb -> 'positionalArgs' -> 0) END
    FROM dbos.workflow_status JOIN dbos.workflow_input i USING (workflow_uuid) WHERE name = %(sequence)s
), effects AS (
    SELECT workflow_id, count(*) AS effects, count(DISTINCT effect_key) AS keys FROM ops.effects GROUP BY 1
), steps AS (
    SELECT workflow_uuid, count(*) AS steps FROM dbos.operation_outputs
    WHERE function_name = 'fibonacci.compute' GROUP BY 1
)
SELECT coalesce(sum(n.wanted) FILTER (WHERE n.status = 'SUCCESS'), 0)::bigint AS numbers,
       coalesce(sum(e.effects), 0)::bigint AS effects,
       count(*) FILTER (WHERE e.effects > e.keys OR e.effects > n.wanted) AS doubled,
       count(*) FILTER (WHERE n.status = 'SUCCESS' AND n.forked_from IS NULL
                          AND coalesce(e.keys, 0) < n.wanted) AS missing,
       count(*) FILTER (WHERE n.status = 'SUCCESS' AND s.steps IS DISTINCT FROM n.wanted) AS steps_wrong,
       count(*) FILTER (WHERE n.workflow_uuid IS NULL) AS without_workflow
FROM numbers n
FULL JOIN effects e ON e.workflow_id = n.workflow_uuid
LEFT JOIN steps s ON s.workflow_uuid = n.workflow_uuid

-- name: audit_effect_contents
-- Counts effects that differ from their step's record. The effect key of a sequence ends with the number's
-- index.
SELECT count(*) AS different
FROM ops.effects e
JOIN dbos.operation_outputs o ON o.workflow_uuid = e.workflow_id AND o.function_name = 'fibonacci.compute'
    AND coalesce((o.function_id - 1) / 2 = substring(e.effect_key FROM ':(\d{1,5})$')::int, true)
WHERE o.output IS NOT NULL
  AND CASE WHEN pg_input_is_valid(o.output, 'jsonb')
      THEN o.output::jsonb ->> 'sha256' <> e.sha256 OR (o.output::jsonb ->> 'n')::bigint <> e.n ELSE true END

-- name: audit_results
-- Returns each distinct result of successful numbers with its count, so the rows stay few for many numbers. A
-- sequence has its results in its output, in the order of its input. A result that is longer than any right one is
-- wrong however it goes on, so it is cut.
SELECT (stored.output ->> 'n')::bigint AS n, (stored.input -> 'positionalArgs' ->> 0)::bigint AS wanted,
       left(stored.output ->> 'sha256', 65) AS sha256, left(stored.output ->> 'result', %(digits)s) AS result,
       (stored.output ->> 'digits')::bigint AS digits, count(*) AS results, min(stored.workflow_uuid) AS example
FROM (SELECT w.workflow_uuid, CASE WHEN pg_input_is_valid(o.output, 'jsonb') THEN o.output::jsonb END AS output,
             CASE WHEN pg_input_is_valid(i.inputs, 'jsonb') THEN i.inputs::jsonb END AS input
      FROM dbos.workflow_status w
      JOIN dbos.workflow_output o ON o.workflow_uuid = w.workflow_uuid
      JOIN dbos.workflow_input i ON i.workflow_uuid = w.workflow_uuid
      WHERE w.name = %(number)s AND w.status = 'SUCCESS'
      UNION ALL
      SELECT w.workflow_uuid,
             CASE WHEN pg_input_is_valid(o.output, 'jsonb') THEN o.output::jsonb -> 'results' -> g.at END,
             jsonb_build_object('positionalArgs', jsonb_build_array(i.inputs::jsonb -> 'positionalArgs' -> 0 -> g.at))
      FROM dbos.workflow_status w
      JOIN dbos.workflow_output o ON o.workflow_uuid = w.workflow_uuid
      JOIN dbos.workflow_input i ON i.workflow_uuid = w.workflow_uuid AND pg_input_is_valid(i.inputs, 'jsonb')
      CROSS JOIN LATERAL generate_series(
          0, jsonb_array_length(i.inputs::jsonb -> 'positionalArgs' -> 0) - 1) AS g (at)
      WHERE w.name = %(sequence)s AND w.status = 'SUCCESS') AS stored
GROUP BY 1, 2, 3, 4, 5 ORDER BY 1

-- name: audit_pulses
SELECT count(*) AS ticks, count(*) FILTER (WHERE status = 'run') AS run,
       count(*) FILTER (WHERE status = 'skipped') AS skipped, min(scheduled_at) AS first, max(scheduled_at) AS last,
       count(*) FILTER (WHERE extract(epoch FROM scheduled_at)::numeric %% %(tick_seconds)s <> 0) AS off_grid,
       coalesce(max(lateness_seconds), 0) AS max_lateness_seconds
FROM ops.pulses

-- name: audit_pulse_doubles
-- Compares the schedule's workflows with their rows: ticks with two workflows, and finished workflows without
-- a row.
SELECT count(*) - count(DISTINCT w.workflow_uuid) AS doubled,
       count(*) FILTER (WHERE w.status = 'SUCCESS' AND p.workflow_id IS NULL) AS without_row
FROM dbos.workflow_status w LEFT JOIN ops.pulses p ON p.workflow_id = w.workflow_uuid
WHERE w.name = %(tick)s

-- name: audit_pulse_gaps
-- Returns runs of ticks without a row, between the first and the last row that retention kept.
SELECT previous + make_interval(secs => %(tick_seconds)s) AS first,
       scheduled_at - make_interval(secs => %(tick_seconds)s) AS last,
       (extract(epoch FROM scheduled_at - previous) / %(tick_seconds)s)::bigint - 1 AS missed
FROM (SELECT scheduled_at, lag(scheduled_at) OVER (ORDER BY scheduled_at) AS previous FROM ops.pulses
      WHERE scheduled_at > (SELECT purged_until FROM ops.retention)) AS pairs
WHERE scheduled_at - previous > make_interval(secs => %(tick_seconds)s)
ORDER BY 1 LIMIT 1000

-- name: audit_settled_ticks
-- Counts ticks of the grid without a `run` row. `whole` is false if retention deleted rows of that time.
SELECT count(*) AS not_run, coalesce((SELECT min(scheduled_at) FROM ops.pulses) <= %(first)s, false) AS whole
FROM generate_series(%(first)s::timestamptz, %(until)s::timestamptz, make_interval(secs => %(tick_seconds)s)) AS g (at)
WHERE NOT EXISTS (SELECT FROM ops.pulses p WHERE p.scheduled_at = g.at AND p.status = 'run')

-- name: audit_presence
-- Returns the lifetimes of a role's executors according to the registry. A loss without any live executor is
-- dated by the first sweep of the next executor, so the last heartbeat counts, too.
SELECT started_at AS begun,
       CASE WHEN state IN ('live', 'draining') THEN clock_timestamp()
            ELSE least(lost_at, ended_at, heartbeat_at) END AS ended
FROM ops.executors WHERE role = %(role)s ORDER BY started_at

-- name: audit_homeless
-- Returns running work of executors that are not live. The caller allows the time of a takeover. Of applications
-- that were never attached it is unknown who is live.
SELECT w.workflow_uuid AS workflow_id, w.name AS workflow_name, w.executor_id, e.state,
       coalesce(extract(epoch FROM clock_timestamp() - e.ended_at), 0)::float8 AS seconds
FROM dbos.workflow_status w LEFT JOIN ops.executors e ON e.executor_id = w.executor_id
WHERE w.status = 'PENDING' AND coalesce(e.state, 'unknown') NOT IN ('live', 'draining')
  AND (w.application_name IS NULL OR w.application_name IN (SELECT name FROM ops.protected)) LIMIT 100

-- name: audit_silent
-- Returns executors registered as live that were silent for two leases, so a sweep should have declared them
-- dead.
SELECT executor_id, application, extract(epoch FROM clock_timestamp() - heartbeat_at)::float8 AS silent_seconds
FROM ops.executors
WHERE state IN ('live', 'draining')
  AND heartbeat_at < clock_timestamp() - make_interval(secs => 2 * %(lease_seconds)s) LIMIT 100

-- name: audit_standstill
-- Returns executors that claim nothing, because a workflow on trial pauses their other queues.
SELECT e.executor_id, w.workflow_uuid AS workflow_id
FROM ops.executors e JOIN dbos.workflow_status w ON w.executor_id = e.executor_id
WHERE e.state = 'live' AND w.status = 'PENDING' AND w.queue_name = e.trials_queue
  AND w.started_at_epoch_ms < (extract(epoch FROM clock_timestamp()) - %(seconds)s) * 1000 LIMIT 100

-- name: audit_handovers
SELECT kind, count(*) AS moves, count(*) FILTER (WHERE claimed_at IS NULL) AS unclaimed,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM released_at - lost_at))::float8
           AS median_seconds_to_release,
       max(extract(epoch FROM released_at - lost_at))::float8 AS max_seconds_to_release
FROM ops.handovers GROUP BY 1 ORDER BY 1

-- name: audit_parked
SELECT w.workflow_uuid AS workflow_id, w.name AS workflow_name, w.application_name AS application,
       coalesce(c.crashes, 0) AS crashes
FROM dbos.workflow_status w LEFT JOIN ops.crashes c ON c.workflow_id = w.workflow_uuid
WHERE w.status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED' ORDER BY w.created_at LIMIT 1000

-- name: audit_over_limit
-- Returns workflows that have reached the crash limit and are not parked.
SELECT c.workflow_id, c.crashes, w.status FROM ops.crashes c
JOIN dbos.workflow_status w ON w.workflow_uuid = c.workflow_id
WHERE c.crashes >= %(crash_limit)s AND w.status IN ('ENQUEUED', 'PENDING') LIMIT 100

-- name: audit_drained
SELECT count(*) AS drained, count(*) FILTER (WHERE EXISTS (
           SELECT FROM dbos.workflow_status w WHERE w.status = 'PENDING' AND w.executor_id = e.executor_id))
       AS with_work
FROM ops.executors e WHERE e.state = 'drained'

-- name: audit_live
-- Returns live executors, whether they ever lost work, and whether rows of their work may be gone: they are older than
-- retention's limit, or than the end of an operator's deletion.
SELECT e.executor_id, e.application, e.role, e.state, e.hostname, e.pid, e.port, e.started_at,
       EXISTS (SELECT FROM ops.handovers h WHERE h.from_executor = e.executor_id) AS lost_work,
       e.started_at <= greatest((SELECT purged_until FROM ops.retention),
           (SELECT max(coalesce(o.ended_at, clock_timestamp())) FROM ops.operations o WHERE o.kind = 'delete')) AS purged
FROM ops.executors e WHERE e.state IN ('live', 'draining') ORDER BY e.started_at

-- name: audit_completed_by
-- Counts the workflows that an executor finished, by name.
SELECT name AS what, count(*) AS number FROM dbos.workflow_status
WHERE executor_id = %(executor_id)s AND status = 'SUCCESS' AND created_at >= %(since_ms)s
GROUP BY 1

-- name: audit_steps_by
-- Counts successful steps by name, of the workflows that an executor has or had last. The steps must have
-- begun after it claimed the workflow. A return to a queue (takeover, handover, resume) erases the earlier
-- claim time. Of a fork, only steps that began after the fork count. A step's begin is on its worker's clock,
-- a claim's on the database's. If steps of another executor may be included, steps within the tolerance of
-- both clocks are not counted. A resume resets the number of claims, so a claim within the tolerance after
-- the cancel goes unnoticed.
SELECT o.function_name AS what, count(*) AS number
FROM dbos.workflow_status w
JOIN dbos.operation_outputs o ON o.workflow_uuid = w.workflow_uuid
WHERE w.executor_id = %(executor_id)s AND w.created_at >= %(since_ms)s
  AND o.error IS NULL AND o.started_at_epoch_ms >= greatest(w.created_at, w.started_at_epoch_ms)
      + CASE WHEN w.recovery_attempts > 1 OR w.forked_from IS NOT NULL THEN %(tolerance_ms)s ELSE -50 END
GROUP BY 1

-- name: audit_taken_over_by
-- Counts executors that this one declared dead, by reason.
SELECT reason AS what, count(*) AS number FROM ops.executors
WHERE taken_over_by = %(executor_id)s AND state = 'dead' GROUP BY 1

-- name: audit_released_by
-- Counts workflows that this executor took over, or released because they never started, by the metrics'
-- reasons.
SELECT CASE reason WHEN 'no live executor' THEN 'orphan' WHEN 'not running here' THEN 'stray' ELSE reason END AS what,
       count(*) AS number
FROM ops.handovers
WHERE released_by = %(executor_id)s AND kind IN ('takeover', 'orphan') GROUP BY 1

-- name: recent_handovers
-- Returns moves of work away from executors that did not finish it, newest first.
SELECT h.workflow_id, h.workflow_name, h.kind, h.reason, h.from_executor, h.released_by, h.to_executor, h.lost_at,
       h.released_at, h.claimed_at, extract(epoch FROM h.claimed_at - h.lost_at)::float8 AS seconds_from_loss_to_claim,
       extract(epoch FROM coalesce(e.taken_over_at, h.released_at) - h.lost_at)::float8 AS takeover_seconds,
       extract(epoch FROM h.claimed_at - h.released_at)::float8 AS slot_wait_seconds
FROM ops.handovers h
LEFT JOIN ops.executors e ON e.executor_id = h.from_executor AND h.kind = 'takeover'
WHERE h.handover_id > %(after)s AND (%(from_executor)s::text IS NULL OR h.from_executor = %(from_executor)s)
ORDER BY h.handover_id DESC LIMIT %(limit)s
