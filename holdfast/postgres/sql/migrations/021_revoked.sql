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

-- As before (005_cancelled.sql), and records the execution if its process can report its end. Whoever cancels has no
-- right to write that table.
CREATE OR REPLACE FUNCTION ops.notify_cancelled() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO ops.revoked (workflow_id, owner_xid, executor_id)
    SELECT OLD.workflow_uuid, to_jsonb(OLD) ->> 'owner_xid', e.executor_id FROM ops.executors e
    WHERE e.executor_id = OLD.executor_id AND e.state IN ('live', 'draining') AND to_jsonb(OLD) ->> 'owner_xid' IS NOT NULL
    ON CONFLICT DO NOTHING;
    PERFORM pg_notify('holdfast_cancelled', NEW.workflow_uuid);
    RETURN NULL;
END $$;
