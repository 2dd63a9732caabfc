-- Deletes those of these workflows that have ended, with all that belongs to them, as DBOS does
-- (SystemDatabase.delete_workflows, 3.4.0; a contract test compares the two), and returns their ids. It runs with the
-- owner's rights, so that the API may delete ended workflows and nothing else. It leaves alone
-- - unfinished work,
-- - a child of unfinished work, which would wait for its result for ever,
-- - what other work has locked, or whose parent it has locked: the parent may just be resumed.
CREATE FUNCTION ops.delete_ended(ids text[]) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parents text[];
    chosen text[];
BEGIN
    -- They stay as they are until the end of the transaction.
    SELECT array_agg(locked.workflow_uuid) INTO parents FROM (
        SELECT p.workflow_uuid FROM dbos.workflow_status p
        WHERE p.workflow_uuid IN (
                SELECT w.parent_workflow_id FROM dbos.workflow_status w WHERE w.workflow_uuid = ANY (ids))
          AND p.status IN ('SUCCESS', 'ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')
        ORDER BY p.workflow_uuid FOR SHARE SKIP LOCKED) AS locked;
    SELECT array_agg(locked.workflow_uuid) INTO chosen FROM (
        -- A join: NOT EXISTS in an OR reads the whole table into a hash.
        SELECT w.workflow_uuid
        FROM dbos.workflow_status w LEFT JOIN dbos.workflow_status p ON p.workflow_uuid = w.parent_workflow_id
        WHERE w.workflow_uuid = ANY (ids)
          AND w.status IN ('SUCCESS', 'ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')
          AND (p.workflow_uuid IS NULL OR w.parent_workflow_id = ANY (parents))
        ORDER BY w.workflow_uuid FOR UPDATE OF w SKIP LOCKED) AS locked;
    -- These have no foreign key.
    DELETE FROM dbos.workflow_input i WHERE i.workflow_uuid = ANY (chosen);
    DELETE FROM dbos.workflow_output o WHERE o.workflow_uuid = ANY (chosen);
    DELETE FROM dbos.operation_outputs s WHERE s.workflow_uuid = ANY (chosen);
    RETURN QUERY DELETE FROM dbos.workflow_status w WHERE w.workflow_uuid = ANY (chosen) RETURNING w.workflow_uuid;
END $$;
