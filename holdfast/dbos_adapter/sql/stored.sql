-- A workflow and its steps with their values, for the API. A value's length is read without the value, and a longer
-- one is cut here, so that no process ever holds more of it. A value that is not JSON is not read at all. Each is one
-- statement: two would see two states, such as a step without the output that was stored with it.

-- name: workflow_detail
-- Returns one workflow as `list_workflows` does, with its values and their bytes.
SELECT w.workflow_uuid AS workflow_id, w.name, w.status, w.class_name, w.config_name AS instance_name,
       w.application_name AS application, w.application_version, w.queue_name, w.executor_id,
       w.recovery_attempts AS attempts, w.parent_workflow_id, w.forked_from, w.created_at,
       w.started_at_epoch_ms AS started_at, w.completed_at, w.delay_until_epoch_ms AS delay_until,
       v.kind AS wait_kind, v.subject AS wait_subject, v.since AS wait_since, v.until AS wait_until,
       w.serialization, octet_length(coalesce(i.inputs, w.inputs)) AS input_bytes,
       octet_length(coalesce(o.output, w.output)) AS output_bytes,
       octet_length(coalesce(o.error, w.error)) AS error_bytes,
       CASE WHEN w.serialization = %(json)s THEN left(coalesce(i.inputs, w.inputs), %(value_bytes)s) END AS input,
       CASE WHEN w.serialization = %(json)s THEN left(coalesce(o.output, w.output), %(value_bytes)s) END AS output,
       CASE WHEN w.serialization = %(json)s THEN left(coalesce(o.error, w.error), %(value_bytes)s) END AS error
FROM dbos.workflow_status w LEFT JOIN dbos.workflow_input i USING (workflow_uuid)
LEFT JOIN dbos.workflow_output o USING (workflow_uuid)
LEFT JOIN ops.waits v ON v.workflow_id = w.workflow_uuid AND v.owner_xid = w.owner_xid AND w.status = 'PENDING'
WHERE w.workflow_uuid = %(workflow_id)s

-- name: workflow_steps
-- Returns a page of a workflow's steps in their order; no row for an unknown workflow.
SELECT s.*
FROM dbos.workflow_status w LEFT JOIN LATERAL (
    SELECT o.function_id AS step_id, o.function_name AS name, o.child_workflow_id,
           o.started_at_epoch_ms AS started_at, o.completed_at_epoch_ms AS completed_at, o.serialization,
           octet_length(o.output) AS output_bytes, octet_length(o.error) AS error_bytes,
           CASE WHEN o.serialization = %(json)s THEN left(o.output, %(value_bytes)s) END AS output,
           CASE WHEN o.serialization = %(json)s THEN left(o.error, %(value_bytes)s) END AS error
    FROM dbos.operation_outputs o WHERE o.workflow_uuid = w.workflow_uuid
    ORDER BY o.function_id LIMIT %(limit)s OFFSET %(offset)s) AS s ON true
WHERE w.workflow_uuid = %(workflow_id)s ORDER BY s.step_id

-- name: reopening
-- Returns where a workflow that ended with ERROR would go on: at the first of the failed steps at its end, behind
-- which there are only results of other workflows; else after its last step. `unmended` are the workflows whose
-- results it would read and that have not succeeded. `acted_on` is the last failed result of another workflow
-- that it went on after, with the step.
WITH steps AS (
    SELECT o.function_id AS step, o.child_workflow_id AS child, o.error IS NOT NULL AS has_failed,
           o.function_name = 'DBOS.getResult' AS is_result
    FROM dbos.operation_outputs o WHERE o.workflow_uuid = %(workflow_id)s),
tail AS (
    SELECT * FROM steps
    WHERE step > coalesce((SELECT max(step) FROM steps WHERE NOT has_failed AND NOT is_result), -1))
SELECT w.status, w.completed_at,
       coalesce((SELECT min(step) FROM tail WHERE has_failed), (SELECT max(step) + 1 FROM steps), 1) AS first_step,
       ARRAY(SELECT DISTINCT t.child || ' is ' || coalesce(c.status, 'deleted') FROM tail t
             LEFT JOIN dbos.workflow_status c ON c.workflow_uuid = t.child
             WHERE t.is_result AND t.has_failed AND c.status IS DISTINCT FROM 'SUCCESS' ORDER BY 1 LIMIT 10) AS unmended,
       (SELECT s.child || ' (step ' || s.step || ')' FROM steps s
        WHERE s.is_result AND s.has_failed AND NOT EXISTS (SELECT FROM tail WHERE has_failed)
        ORDER BY s.step DESC LIMIT 1) AS acted_on
FROM dbos.workflow_status w WHERE w.workflow_uuid = %(workflow_id)s

-- name: reopen
SELECT ops.reopen(%(workflow_id)s, %(ended_at)s, %(first_step)s, %(queue)s, %(version)s) AS is_reopened
