-- Who computes for a workflow that is cancelled hears of it (channel holdfast_cancelled, payload: its id).
CREATE FUNCTION ops.notify_cancelled() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('holdfast_cancelled', NEW.workflow_uuid);
    RETURN NULL;
END $$;

CREATE TRIGGER holdfast_cancelled AFTER UPDATE OF status ON dbos.workflow_status
    FOR EACH ROW WHEN (OLD.status = 'PENDING' AND NEW.status = 'CANCELLED')
    EXECUTE FUNCTION ops.notify_cancelled();
