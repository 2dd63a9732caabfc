-- Publishes what workflows wait for: holdfast/dbos_adapter/waiting/waits.py.

-- name: publish_waits
-- Stores a row for each of these executions that still owns its workflow, and returns the state of each. An
-- execution that lost its workflow, by a cancel or a release, has to stop.
WITH given AS (
    SELECT * FROM unnest(%(workflow_ids)s::text[], %(owners)s::text[], %(kinds)s::text[], %(subjects)s::text[],
                         %(waited)s::float8[], %(seconds)s::float8[])
        AS g (workflow_id, owner_xid, kind, subject, waited, seconds)
), published AS (
    INSERT INTO ops.waits AS x (workflow_id, owner_xid, kind, subject, since, until)
    SELECT g.workflow_id, g.owner_xid, g.kind, g.subject, clock_timestamp() - make_interval(secs => g.waited),
           clock_timestamp() + make_interval(secs => g.seconds)
    FROM given g JOIN dbos.workflow_status w ON w.workflow_uuid = g.workflow_id
    WHERE w.status = 'PENDING' AND w.owner_xid = g.owner_xid
    ON CONFLICT (workflow_id) DO UPDATE SET owner_xid = excluded.owner_xid, kind = excluded.kind,
        subject = excluded.subject, since = excluded.since, until = excluded.until, releases = 0
    RETURNING x.workflow_id, x.owner_xid)
SELECT g.workflow_id, g.owner_xid, w.status, w.queue_name, p.workflow_id IS NOT NULL AS published
FROM given g
LEFT JOIN dbos.workflow_status w ON w.workflow_uuid = g.workflow_id
LEFT JOIN published p ON p.workflow_id = g.workflow_id AND p.owner_xid = g.owner_xid

-- name: withdraw_wait
-- Runs before the workflow continues. If it was released as waiting, it continues elsewhere and no row is
-- returned. The statement waits for a release under way, see `unfinished_work`.
DELETE FROM ops.waits x WHERE x.workflow_id = %(workflow_id)s AND (x.owner_xid = %(owner_xid)s
    -- The previous execution left this row, see `keep_waits`.
    OR x.owner_xid = '' AND EXISTS (SELECT FROM dbos.workflow_status w
        WHERE w.workflow_uuid = x.workflow_id AND w.owner_xid = %(owner_xid)s))
RETURNING x.workflow_id

-- name: still_owned
SELECT workflow_uuid AS workflow_id FROM dbos.workflow_status
WHERE workflow_uuid = %(workflow_id)s AND owner_xid = %(owner_xid)s
