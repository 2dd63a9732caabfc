-- Returns a workflow that ended with ERROR to its queue, without the failed steps at its end, for an operator. It
-- runs with the owner's rights, so that the API may delete such steps and no others. Returns false, and changes
-- nothing, if the workflow has changed since the caller read it, or a step that succeeded would be deleted. To read
-- the result of another workflow once more does no harm.
CREATE FUNCTION ops.reopen(id text, ended_at bigint, first_step integer, queue text, version text) RETURNS boolean
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
    DELETE FROM dbos.workflow_output o WHERE o.workflow_uuid = id;
    UPDATE dbos.workflow_status w
    SET status = 'ENQUEUED', owner_xid = NULL, queue_name = queue,
        application_version = coalesce(version, w.application_version), recovery_attempts = 0,
        workflow_deadline_epoch_ms = NULL, deduplication_id = NULL, started_at_epoch_ms = NULL, completed_at = NULL,
        output = NULL, error = NULL, updated_at = (extract(epoch FROM clock_timestamp()) * 1000)::bigint
    WHERE w.workflow_uuid = id;
    RETURN true;
END $$;
