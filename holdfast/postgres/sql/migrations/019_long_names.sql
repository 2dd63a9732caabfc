-- A name that is too long for a notice must not stop the change of its row: those that wait for the notice also poll.
CREATE OR REPLACE FUNCTION ops.notify_queue() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF octet_length(NEW.queue_name) < 7900 THEN
        PERFORM pg_notify('holdfast_queue', NEW.queue_name);
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION ops.notify_cancelled() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF octet_length(NEW.workflow_uuid) < 7900 THEN
        PERFORM pg_notify('holdfast_cancelled', NEW.workflow_uuid);
    END IF;
    RETURN NULL;
END $$;
