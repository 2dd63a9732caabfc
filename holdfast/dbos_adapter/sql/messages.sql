-- Messages, events and streams: statements that wake waiting workflows, and statements for the API.

-- name: messages_arrived
-- Returns the positions of those (workflow, topic) pairs for which a message waits.
SELECT g.position FROM unnest(%(workflow_ids)s::text[], %(keys)s::text[])
    WITH ORDINALITY AS g (workflow_id, topic, position)
WHERE EXISTS (SELECT FROM dbos.notifications n
              WHERE n.destination_uuid = g.workflow_id AND n.topic = g.topic AND NOT n.consumed)

-- name: events_arrived
-- Returns the positions of those (workflow, key) pairs that are set.
SELECT g.position FROM unnest(%(workflow_ids)s::text[], %(keys)s::text[])
    WITH ORDINALITY AS g (workflow_id, key, position)
WHERE EXISTS (SELECT FROM dbos.workflow_events e WHERE e.workflow_uuid = g.workflow_id AND e.key = g.key)

-- name: message_target
-- Returns the status of a workflow of any application, and whether this message was sent to it already.
SELECT w.status, EXISTS (SELECT FROM dbos.notifications n
                         WHERE n.message_uuid = %(message_uuid)s) AS sent
FROM dbos.workflow_status w WHERE w.workflow_uuid = %(workflow_id)s

-- name: workflow_events
-- Returns a workflow's events by key, after a given key; no row for an unknown workflow. A value that is too
-- long is cut here: reading its length does not read it.
SELECT e.key, e.bytes, e.value, e.serialization
FROM dbos.workflow_status w LEFT JOIN LATERAL (
    SELECT e.key, octet_length(e.value) AS bytes, e.serialization,
           CASE WHEN octet_length(e.value) > %(value_bytes)s THEN left(e.value, %(value_bytes)s) ELSE e.value END AS value
    FROM dbos.workflow_events e
    WHERE e.workflow_uuid = w.workflow_uuid AND (%(after)s::text IS NULL OR e.key > %(after)s)
    ORDER BY e.key LIMIT %(limit)s) AS e ON true
WHERE w.workflow_uuid = %(workflow_id)s ORDER BY e.key

-- name: workflow_streams
-- Returns a workflow's streams by key, after a given key; no row for an unknown workflow. The index is
-- searched once per key, whatever the number of values.
WITH RECURSIVE keys AS (
    (SELECT s.key, 1 AS number FROM dbos.streams s
     WHERE s.workflow_uuid = %(workflow_id)s AND (%(after)s::text IS NULL OR s.key > %(after)s)
     ORDER BY s.key LIMIT 1)
    UNION ALL
    SELECT n.key, k.number + 1 FROM keys k CROSS JOIN LATERAL (
        SELECT s.key FROM dbos.streams s WHERE s.workflow_uuid = %(workflow_id)s AND s.key > k.key
        ORDER BY s.key LIMIT 1) AS n
    WHERE k.number < %(limit)s)
SELECT k.key, l.last, l.closed
FROM dbos.workflow_status w LEFT JOIN keys k ON true LEFT JOIN LATERAL (
    SELECT s."offset" AS last, s.serialization = 'portable_json' AND s.value = %(closed)s AS closed
    FROM dbos.streams s WHERE s.workflow_uuid = w.workflow_uuid AND s.key = k.key
    ORDER BY s."offset" DESC LIMIT 1) AS l ON true
WHERE w.workflow_uuid = %(workflow_id)s ORDER BY k.key

-- name: stream_values
-- Returns the next values of a stream and the status of its workflow; no row for an unknown workflow. It
-- returns at least one value, and no more than fit into `budget` bytes. A value that is too long is cut.
SELECT w.status, s."offset", s.bytes, s.value, s.serialization
FROM dbos.workflow_status w LEFT JOIN LATERAL (
    SELECT n."offset", n.bytes, n.serialization,
           CASE WHEN n.bytes > %(value_bytes)s THEN left(n.value, %(value_bytes)s) ELSE n.value END AS value
    FROM (SELECT s."offset", s.value, s.serialization, octet_length(s.value) AS bytes,
                 sum(least(octet_length(s.value), %(value_bytes)s)) OVER (ORDER BY s."offset") AS so_far
          FROM (SELECT * FROM dbos.streams s
                WHERE s.workflow_uuid = %(workflow_id)s AND s.key = %(key)s AND s."offset" >= %(offset)s
                ORDER BY s."offset" LIMIT %(limit)s) AS s) AS n
    WHERE n.so_far <= %(budget)s OR n."offset" = %(offset)s
    ORDER BY n."offset") AS s ON true
WHERE w.workflow_uuid = %(workflow_id)s ORDER BY s."offset"

-- name: wait_of
-- Returns what a workflow waits for, as published by the process that runs it.
SELECT v.kind, v.subject, v.since, v.until FROM ops.waits v
JOIN dbos.workflow_status w ON w.workflow_uuid = v.workflow_id AND w.owner_xid = v.owner_xid AND w.status = 'PENDING'
WHERE v.workflow_id = %(workflow_id)s
