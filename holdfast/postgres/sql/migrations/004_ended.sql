-- Whoever waits for a workflow that nobody enqueued as a child hears of its end (channel holdfast_done, payload:
-- '=' and its id), as a parent hears of its children's.
CREATE OR REPLACE FUNCTION ops.notify_done() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('holdfast_done', coalesce(NEW.parent_workflow_id, '=' || NEW.workflow_uuid));
    RETURN NULL;
END $$;

DROP TRIGGER holdfast_done ON dbos.workflow_status;
CREATE TRIGGER holdfast_done AFTER UPDATE OF status ON dbos.workflow_status
    FOR EACH ROW WHEN (OLD.status <> NEW.status
        AND NEW.status IN ('SUCCESS', 'ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED'))
    EXECUTE FUNCTION ops.notify_done();
