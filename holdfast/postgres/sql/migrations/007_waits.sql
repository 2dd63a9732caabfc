-- Workflows that only wait. The process that runs a workflow writes its row when the workflow begins to wait and
-- deletes it before anything else of the workflow runs. A row counts only while its owner_xid is the workflow's:
-- the row of a lost execution says nothing about the next one.
CREATE TABLE ops.waits (
    workflow_id text PRIMARY KEY,
    owner_xid text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('sleep', 'message', 'event', 'workflow', 'stream')),
    -- The topic of a message, `workflow id/key` of an event or stream, the id of the workflow waited for.
    subject text,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- When the wait ends by itself; NULL where it has no limit.
    until timestamptz
);

-- As before, with the waits of the deleted workflows.
CREATE OR REPLACE FUNCTION ops.forget_deleted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ids text[];
BEGIN
    SELECT array_agg(g.workflow_uuid) INTO ids FROM gone g;
    IF ids IS NULL THEN
        RETURN NULL;
    END IF;
    DELETE FROM ops.effects e WHERE e.workflow_id = ANY (ids);
    DELETE FROM ops.crashes c WHERE c.workflow_id = ANY (ids);
    DELETE FROM ops.waits w WHERE w.workflow_id = ANY (ids);
    DELETE FROM dbos.datasource_outputs d WHERE d.workflow_id = ANY (ids);
    INSERT INTO ops.totals AS t (name, application, le, value)
    SELECT 'purged', coalesce(g.application_name, ''), 'Infinity', count(*) FROM gone g GROUP BY 2
    ON CONFLICT (name, application, le) DO UPDATE SET value = t.value + excluded.value;
    RETURN NULL;
END $$;
