-- As before (016_reopen.sql), and deletes what a datasource recorded of failed transactions: a step that is done again
-- would return that error. DBOS deletes it at the workflow's end, but not if another process replayed the failure, and
-- not of an asynchronous datasource in a synchronous workflow. A transaction that was committed stays recorded.
CREATE OR REPLACE FUNCTION ops.reopen(id text, ended_at bigint, first_step integer, queue text, version text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM dbos.workflow_status w
    WHERE w.workflow_uuid = id AND w.status = 'ERROR' AND w.completed_at IS NOT DISTINCT FROM ended_at FOR UPDATE;
    IF NOT FOUND OR EXISTS (
        SELECT FROM dbos.operation_outputs o WHERE o.workflow_uuid = id AND o.function_id >= first_step
          AND o.error IS NULL AND o.function_name <> 'DBOS.getResult') THEN
        RETURN false;
    END IF;
    DELETE FROM dbos.operation_outputs o WHERE o.workflow_uuid = id AND o.function_id >= first_step;
    DELETE FROM dbos.datasource_outputs d WHERE d.workflow_id = id AND d.step_id >= first_step AND d.error IS NOT NULL;
    DELETE FROM dbos.workflow_output o WHERE o.workflow_uuid = id;
    UPDATE dbos.workflow_status w
    SET status = 'ENQUEUED', owner_xid = NULL, queue_name = queue,
        application_version = coalesce(version, w.application_version), recovery_attempts = 0,
        workflow_deadline_epoch_ms = NULL, deduplication_id = NULL, started_at_epoch_ms = NULL, completed_at = NULL,
        output = NULL, error = NULL, updated_at = (extract(epoch FROM clock_timestamp()) * 1000)::bigint
    WHERE w.workflow_uuid = id;
    RETURN true;
END $$;
