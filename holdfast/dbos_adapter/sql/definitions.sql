-- What the code of each process declares of queues and schedules (holdfast/dbos_adapter/definitions.py).

-- name: declare_definitions
WITH declared AS (
    INSERT INTO ops.declarations (executor_id, definitions) VALUES (%(executor_id)s, %(definitions)s::jsonb)
    ON CONFLICT (executor_id) DO UPDATE SET definitions = excluded.definitions)
INSERT INTO ops.definitions (application, kind, name, definition)
SELECT %(application)s, k.key, n.key, n.value FROM jsonb_each(%(definitions)s::jsonb) k, jsonb_each(k.value) n
ON CONFLICT DO NOTHING

-- name: newest_definitions
-- Returns those of the given definitions that are not older than another one that a live executor declares.
SELECT d.kind, d.name, d.definition::text AS definition, d.applies
FROM jsonb_each(%(definitions)s::jsonb) k CROSS JOIN LATERAL jsonb_each(k.value) n
JOIN ops.definitions d ON (d.application, d.kind, d.name) = (%(application)s, k.key, n.key)
    AND md5(d.definition::text) = md5(n.value::text)
WHERE NOT EXISTS (
    SELECT FROM ops.definitions newer
    JOIN ops.executors e ON e.application = newer.application AND e.state IN ('live', 'draining')
    JOIN ops.declarations c USING (executor_id)
    WHERE (newer.application, newer.kind, newer.name) = (d.application, d.kind, d.name)
      AND newer.first_declared_at > d.first_declared_at
      AND c.definitions -> newer.kind -> newer.name = newer.definition)
ORDER BY d.kind, d.name

-- name: share_definitions_lock
SELECT pg_advisory_xact_lock_shared(7034, hashtext(%(application)s))

-- name: try_definitions_lock
SELECT pg_try_advisory_xact_lock(7034, hashtext(%(application)s)) AS held

-- name: mark_definition
UPDATE ops.definitions SET applies = (definition = %(definition)s::jsonb)
WHERE (application, kind, name) = (%(application)s, %(kind)s, %(name)s)
  AND applies <> (definition = %(definition)s::jsonb)
