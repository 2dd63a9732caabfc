-- Each end is told by the workflow's own id, beside its parent's (channel holdfast_done): a workflow that waits for
-- one other asks nothing until then. Payload: the length of the id, a colon, the id, the parent's id if there is
-- one. Empty where both together are too long for a notice: then everybody who waits looks.
CREATE OR REPLACE FUNCTION ops.notify_done() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    payload text := char_length(NEW.workflow_uuid) || ':' || NEW.workflow_uuid || coalesce(NEW.parent_workflow_id, '');
BEGIN
    PERFORM pg_notify('holdfast_done', CASE WHEN octet_length(payload) < 7900 THEN payload ELSE '' END);
    RETURN NULL;
END $$;
