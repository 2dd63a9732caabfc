-- DBOS's hot statements, each in one round trip (holdfast/dbos_adapter/round_trips.py). They read and write
-- the same columns as DBOS: tests/integration/dbos_adapter/test_round_trips.py compares them.

-- name: claim_queued
-- Claims the next workflows of a queue for an executor and reads them, as start_queued_workflows and
-- get_workflow_statuses do in two transactions. The array keeps the planner on the primary key, whatever it
-- estimates for the limit. Executors of the latest version claim rows without a version. The last three conditions
-- leave what this process cannot run to others (holdfast/dbos_adapter/claimable.py).
WITH waiting AS (
    SELECT workflow_uuid FROM dbos.workflow_status w
    WHERE queue_name = %(queue_name)s AND status = 'ENQUEUED'
      AND (application_version = %(version)s OR application_version IS NULL AND coalesce((
          SELECT version_name = %(version)s FROM dbos.application_versions
          WHERE application_name = %(application)s OR application_name IS NULL
          ORDER BY version_timestamp DESC LIMIT 1), true))
      AND (application_name = %(application)s OR application_name IS NULL)
      AND name = ANY (%(names)s::text[])
      AND coalesce(class_name || coalesce('/' || config_name, ''), '') = ANY (%(classes)s::text[])
      AND ops.arguments_fit(coalesce((
          SELECT i.inputs FROM dbos.workflow_input i WHERE i.workflow_uuid = w.workflow_uuid), w.inputs),
          %(takes)s::jsonb -> w.name)
    ORDER BY priority, created_at LIMIT %(free_slots)s FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE dbos.workflow_status SET
        status = 'PENDING', owner_xid = %(owner_xid)s, application_version = %(version)s,
        executor_id = %(executor_id)s, application_name = %(application)s, rate_limited = false,
        started_at_epoch_ms = (extract(epoch FROM now()) * 1000)::bigint,
        updated_at = (extract(epoch FROM now()) * 1000)::bigint,
        recovery_attempts = recovery_attempts + 1,
        workflow_deadline_epoch_ms = CASE
            WHEN workflow_timeout_ms IS NOT NULL AND workflow_deadline_epoch_ms IS NULL
            THEN least(%(now_ms)s::numeric + workflow_timeout_ms, 9223372036854775807)::bigint
            ELSE workflow_deadline_epoch_ms END
    WHERE workflow_uuid = ANY (ARRAY(SELECT workflow_uuid FROM waiting))
    RETURNING *)
SELECT c.workflow_uuid, c.status, c.name, c.recovery_attempts, c.config_name, c.class_name, c.authenticated_user,
       c.authenticated_roles, c.assumed_role, c.queue_name, c.executor_id, c.created_at, c.updated_at,
       c.application_version AS app_version, c.application_id AS app_id, c.workflow_deadline_epoch_ms,
       c.workflow_timeout_ms, c.deduplication_id, c.priority, coalesce(i.inputs, c.inputs) AS inputs,
       c.queue_partition_key, c.forked_from, c.parent_workflow_id, c.started_at_epoch_ms, c.serialization,
       c.delay_until_epoch_ms, c.attributes, c.schedule_name, c.debounce_deadline_epoch_ms, c.is_debounced,
       c.application_name, NULL AS shard_key
FROM claimed c LEFT JOIN dbos.workflow_input i USING (workflow_uuid)
ORDER BY c.priority, c.created_at

-- name: record_step
-- Records a step's result if the execution still owns its workflow, whose row stays locked meanwhile. If it
-- does not, no row is returned. An existing result stays, and its time of completion is returned.
WITH owned AS (
    SELECT FROM dbos.workflow_status
    WHERE workflow_uuid = %(workflow_uuid)s AND owner_xid = %(owner_xid)s FOR NO KEY UPDATE)
INSERT INTO dbos.operation_outputs AS o
    (workflow_uuid, function_id, function_name, output, error, child_workflow_id, started_at_epoch_ms,
     completed_at_epoch_ms, serialization, application_name, retention_timestamp)
SELECT %(workflow_uuid)s, %(function_id)s, %(function_name)s, %(output)s, %(error)s, %(child_workflow_id)s,
       %(started_at_epoch_ms)s, %(completed_at)s, %(serialization)s, %(application)s,
       (extract(epoch FROM now()) * 1000)::bigint
FROM owned
ON CONFLICT (workflow_uuid, function_id) DO UPDATE SET completed_at_epoch_ms = o.completed_at_epoch_ms
RETURNING o.completed_at_epoch_ms

-- name: read_step
-- Returns a workflow's status, which may be CANCELLED, and the record of one of its steps.
SELECT w.status, o.output, o.error, o.function_name, o.child_workflow_id, o.serialization, NULL AS child_shard_key
FROM dbos.workflow_status w
LEFT JOIN dbos.operation_outputs o ON o.workflow_uuid = w.workflow_uuid AND o.function_id = %(function_id)s
WHERE w.workflow_uuid = %(workflow_id)s

-- name: read_steps_ahead
-- Returns a workflow's status, which may be CANCELLED, and the records of its steps from a given one on: at
-- most `page_rows` rows and `page_bytes` bytes, unless the first row alone has more. The sizes are known
-- without reading the values.
SELECT w.status, o.function_id, o.output, o.error, o.function_name, o.child_workflow_id, o.serialization,
       NULL AS child_shard_key
FROM dbos.workflow_status w
LEFT JOIN LATERAL (
    SELECT *, sum(coalesce(octet_length(n.output), 0) + coalesce(octet_length(n.error), 0))
                  OVER (ORDER BY n.function_id) AS bytes, row_number() OVER (ORDER BY n.function_id) AS place
    FROM (SELECT * FROM dbos.operation_outputs
          WHERE workflow_uuid = %(workflow_id)s AND function_id >= %(function_id)s
          ORDER BY function_id LIMIT %(page_rows)s) AS n
) AS o ON o.bytes <= %(page_bytes)s OR o.place = 1
WHERE w.workflow_uuid = %(workflow_id)s

-- name: record_effect
-- Writes an effect and the record of its step, if the execution still owns its workflow, whose row stays
-- locked meanwhile. An existing record and its effect stay. If another execution owns the workflow, no row is
-- returned. Times are rounded down as in Python: rounded up, a step would end after the next one has begun.
WITH owned AS (
    SELECT FROM dbos.workflow_status
    WHERE workflow_uuid = %(workflow_uuid)s AND owner_xid = %(owner_xid)s FOR NO KEY UPDATE
), recorded AS (
    INSERT INTO dbos.operation_outputs
        (workflow_uuid, function_id, function_name, output, serialization, started_at_epoch_ms,
         completed_at_epoch_ms, application_name, retention_timestamp)
    SELECT %(workflow_uuid)s, %(function_id)s, %(function_name)s, %(output)s, %(serialization)s,
           floor(extract(epoch FROM now()) * 1000)::bigint, floor(extract(epoch FROM now()) * 1000)::bigint,
           %(application)s, (extract(epoch FROM now()) * 1000)::bigint
    FROM owned
    ON CONFLICT (workflow_uuid, function_id) DO NOTHING
    RETURNING workflow_uuid
), effect AS (
    INSERT INTO ops.effects (workflow_id, effect_key, executor_id, n, sha256)
    SELECT %(workflow_uuid)s, %(effect_key)s, %(executor_id)s, %(n)s, %(sha256)s FROM recorded)
SELECT EXISTS (SELECT FROM recorded) AS written FROM owned

-- name: end_workflow
-- Records a workflow's outcome if the execution still owns it. With coalesce the planner stays on the primary
-- key: it estimates the index of running workflows as cheaper, but that is full of workflows that just ran.
WITH ended AS (
    UPDATE dbos.workflow_status SET
        status = %(status)s, deduplication_id = NULL, owner_xid = NULL,
        updated_at = (extract(epoch FROM now()) * 1000)::bigint,
        completed_at = (extract(epoch FROM now()) * 1000)::bigint
    WHERE workflow_uuid = %(workflow_id)s AND coalesce(status, '') = 'PENDING' AND owner_xid = %(owner_xid)s
    RETURNING workflow_uuid)
INSERT INTO dbos.workflow_output AS o (workflow_uuid, output, error)
SELECT workflow_uuid, %(output)s, %(error)s FROM ended
ON CONFLICT (workflow_uuid) DO UPDATE SET output = excluded.output, error = excluded.error
RETURNING o.workflow_uuid

-- name: stored_end
SELECT status, executor_id FROM dbos.workflow_status WHERE workflow_uuid = %(workflow_id)s
