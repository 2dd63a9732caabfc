-- What retention rests on: unfinished work cannot be deleted, and what belongs to a workflow goes with it.

-- Until when rows may be missing, and when a purge last came to its end. One row.
CREATE TABLE ops.retention (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    purged_until timestamptz NOT NULL DEFAULT '-infinity',
    last_purge_at timestamptz
);
INSERT INTO ops.retention DEFAULT VALUES;

-- A purge looks for keys by their age.
CREATE INDEX requests_created_at ON ops.requests (created_at, key);

-- Whoever deletes, with whatever in mind: between its look and its delete somebody may have resumed the
-- workflow. The whole transaction fails, so that inputs and steps stay as well.
CREATE FUNCTION ops.keep_unfinished() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'workflow % is %: unfinished work is not deleted', OLD.workflow_uuid, OLD.status
        USING ERRCODE = 'restrict_violation', HINT = 'Cancel it first.';
END $$;

CREATE TRIGGER holdfast_keep_unfinished BEFORE DELETE ON dbos.workflow_status
    FOR EACH ROW WHEN (OLD.status NOT IN ('SUCCESS', 'ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED'))
    EXECUTE FUNCTION ops.keep_unfinished();

-- In the transaction of the delete, so that nobody ever sees an effect without its workflow, and the count
-- is exact.
CREATE FUNCTION ops.forget_deleted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
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
    DELETE FROM dbos.datasource_outputs d WHERE d.workflow_id = ANY (ids);
    INSERT INTO ops.totals AS t (name, application, le, value)
    SELECT 'purged', coalesce(g.application_name, ''), 'Infinity', count(*) FROM gone g GROUP BY 2
    ON CONFLICT (name, application, le) DO UPDATE SET value = t.value + excluded.value;
    RETURN NULL;
END $$;

CREATE TRIGGER holdfast_forget_deleted AFTER DELETE ON dbos.workflow_status
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION ops.forget_deleted();
