-- What executors have registered: workflows, queues and schedules (ops.registrations, ops.definitions).

-- name: publish_registrations
INSERT INTO ops.registrations (executor_id, serializer, workflows, queues, schedules, definitions)
VALUES (%(executor_id)s, %(serializer)s, %(workflows)s::jsonb, %(queues)s::text[], %(schedules)s::text[],
        %(definitions)s::jsonb)
ON CONFLICT (executor_id) DO UPDATE SET serializer = excluded.serializer, workflows = excluded.workflows,
    queues = excluded.queues, schedules = excluded.schedules, definitions = excluded.definitions

-- name: note_definitions
INSERT INTO ops.definitions (application, kind, name, definition)
SELECT %(application)s, k.key, n.key, n.value FROM jsonb_each(%(definitions)s::jsonb) k, jsonb_each(k.value) n
ON CONFLICT DO NOTHING

-- name: lock_definitions
SELECT pg_advisory_xact_lock(7034, hashtext(%(application)s))

-- name: definitions_to_apply
-- Returns those of the given definitions that do not apply, unless a live executor declares a newer one.
SELECT d.kind, d.name, d.definition::text AS definition
FROM jsonb_each(%(definitions)s::jsonb) k CROSS JOIN LATERAL jsonb_each(k.value) n
JOIN ops.definitions d ON (d.application, d.kind, d.name) = (%(application)s, k.key, n.key)
    AND md5(d.definition::text) = md5(n.value::text)
WHERE (NOT d.applies OR %(starting)s AND NOT EXISTS (
        SELECT FROM dbos.queues q WHERE d.kind = 'queue' AND q.name = d.name
        UNION ALL SELECT FROM dbos.workflow_schedules s WHERE d.kind = 'schedule' AND s.schedule_name = d.name))
  AND NOT EXISTS (
    SELECT FROM ops.definitions newer
    JOIN ops.executors e ON e.application = newer.application AND e.state IN ('live', 'draining')
    JOIN ops.registrations r USING (executor_id)
    WHERE (newer.application, newer.kind, newer.name) = (d.application, d.kind, d.name)
      AND newer.first_declared_at > d.first_declared_at
      AND r.definitions -> newer.kind -> newer.name = newer.definition)

-- name: mark_definition
UPDATE ops.definitions SET applies = (definition = %(definition)s::jsonb)
WHERE (application, kind, name) = (%(application)s, %(kind)s, %(name)s)
  AND applies <> (definition = %(definition)s::jsonb)

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
