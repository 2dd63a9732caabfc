-- Executions whose workflow was cancelled and whose code may still run. The process that runs it deletes the row when the
-- code has ended; a row of an executor that is not live says nothing. A resume waits until there is none.
CREATE TABLE ops.revoked (
    workflow_id text NOT NULL,
    owner_xid text NOT NULL,
    executor_id text NOT NULL REFERENCES ops.executors ON DELETE CASCADE,
    revoked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (workflow_id, owner_xid)
);
CREATE INDEX revoked_executor ON ops.revoked (executor_id);
-- Whether its process deletes those rows. One of an older release does not: nothing may wait for that.
ALTER TABLE ops.executors ADD COLUMN reports_ends boolean NOT NULL DEFAULT false;

-- As before (019_long_names.sql), and records the execution if its process can report its end. The role that cancels has
-- no right to write that table.
CREATE OR REPLACE FUNCTION ops.notify_cancelled() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO ops.revoked (workflow_id, owner_xid, executor_id)
    SELECT OLD.workflow_uuid, to_jsonb(OLD) ->> 'owner_xid', e.executor_id FROM ops.executors e
    WHERE e.executor_id = OLD.executor_id AND e.state IN ('live', 'draining') AND e.reports_ends
      AND to_jsonb(OLD) ->> 'owner_xid' IS NOT NULL
    ON CONFLICT DO NOTHING;
    IF octet_length(NEW.workflow_uuid) < 7900 THEN
        PERFORM pg_notify('holdfast_cancelled', NEW.workflow_uuid);
    END IF;
    RETURN NULL;
END $$;

-- As before (007_waits.sql), with the revoked executions of the deleted workflows.
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
    DELETE FROM ops.revoked r WHERE r.workflow_id = ANY (ids);
    DELETE FROM dbos.datasource_outputs d WHERE d.workflow_id = ANY (ids);
    INSERT INTO ops.totals AS t (name, application, le, value)
    SELECT 'purged', coalesce(g.application_name, ''), 'Infinity', count(*) FROM gone g GROUP BY 2
    ON CONFLICT (name, application, le) DO UPDATE SET value = t.value + excluded.value;
    RETURN NULL;
END $$;
