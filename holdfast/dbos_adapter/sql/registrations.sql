-- The workflows that executors have registered (ops.registrations).

-- name: publish_registrations
INSERT INTO ops.registrations (executor_id, serializer, workflows, queues, schedules)
VALUES (%(executor_id)s, %(serializer)s, %(workflows)s::jsonb, %(queues)s::text[], %(schedules)s::text[])
ON CONFLICT (executor_id) DO UPDATE SET serializer = excluded.serializer, workflows = excluded.workflows,
    queues = excluded.queues, schedules = excluded.schedules

-- name: find_registered
-- Returns each application of which a live executor has registered the workflow, with its newest such version.
SELECT DISTINCT ON (e.application) e.application, e.application_version AS version, r.serializer,
       r.workflows -> %(name)s AS workflow
FROM ops.executors e JOIN ops.registrations r USING (executor_id)
LEFT JOIN dbos.application_versions v ON v.version_name = e.application_version
WHERE e.state = 'live' AND r.workflows ? %(name)s
  AND (%(application)s::text IS NULL OR e.application = %(application)s)
  AND e.heartbeat_at > statement_timestamp() - make_interval(secs => 2 * %(lease_seconds)s)
ORDER BY e.application, v.version_timestamp DESC NULLS LAST, e.started_at DESC

-- name: registered_names
-- Returns the names that live executors have registered, of one application or of all.
SELECT DISTINCT jsonb_object_keys(r.workflows) AS name
FROM ops.executors e JOIN ops.registrations r USING (executor_id)
WHERE e.state = 'live' AND (%(application)s::text IS NULL OR e.application = %(application)s)
ORDER BY 1 LIMIT 1000

-- name: queues_of
-- Returns the queues of an application. Any limit per partition makes a queue partitioned, as in DBOS.
SELECT name, num_nonnulls(partition_concurrency, partition_worker_concurrency, partition_rate_limit_max) > 0
    AS is_partitioned
FROM dbos.queues WHERE application_name = %(application)s OR application_name IS NULL ORDER BY name

-- name: deduplication_holder
SELECT workflow_uuid AS workflow_id FROM dbos.workflow_status
WHERE queue_name = %(queue_name)s AND deduplication_id = %(deduplication_id)s

-- name: store_pickled_input
-- Replaces the input of a workflow that this transaction stored. A workflow that existed before keeps its own.
WITH fresh AS (
    UPDATE dbos.workflow_status SET serialization = 'py_pickle'
    WHERE workflow_uuid = %(workflow_id)s AND status IN ('ENQUEUED', 'DELAYED') AND serialization = 'portable_json'
    RETURNING workflow_uuid)
UPDATE dbos.workflow_input i SET inputs = %(inputs)s FROM fresh WHERE i.workflow_uuid = fresh.workflow_uuid
