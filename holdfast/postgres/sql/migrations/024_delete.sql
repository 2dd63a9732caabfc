-- Returns the unfinished workflows that will read the results of these ones: what a live execution waits for, and what a
-- fork recorded as a child of its original and has not read yet.
CREATE FUNCTION ops.awaited(ids text[]) RETURNS TABLE (child text, waiter text, status text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE forks AS (
        SELECT f.workflow_uuid, f.status FROM dbos.workflow_status f WHERE f.forked_from IN (
            SELECT w.parent_workflow_id FROM dbos.workflow_status w WHERE w.workflow_uuid = ANY (ids))
        UNION
        SELECT f.workflow_uuid, f.status FROM forks o JOIN dbos.workflow_status f ON f.forked_from = o.workflow_uuid)
    SELECT s.child_workflow_id, f.workflow_uuid, f.status
    FROM forks f JOIN dbos.operation_outputs s ON s.workflow_uuid = f.workflow_uuid
    WHERE f.status IN ('PENDING', 'ENQUEUED', 'DELAYED') AND s.child_workflow_id = ANY (ids)
      AND NOT EXISTS (
        SELECT FROM dbos.operation_outputs r WHERE r.workflow_uuid = s.workflow_uuid
          AND r.child_workflow_id = s.child_workflow_id AND r.function_name = 'DBOS.getResult')
    UNION ALL
    SELECT v.subject, p.workflow_uuid, p.status
    FROM ops.waits v JOIN dbos.workflow_status p ON p.workflow_uuid = v.workflow_id AND p.owner_xid = v.owner_xid
    WHERE v.kind = 'workflow' AND v.subject = ANY (ids) AND p.status = 'PENDING'
$$;

-- Deletes those of these workflows that have ended, with all that belongs to them, as DBOS does
-- (SystemDatabase.delete_workflows, 3.4.0; a contract test compares the two), and returns their ids. It runs with the
-- owner's rights, so that the API may delete ended workflows and nothing else. It leaves alone
-- - unfinished work,
-- - what unfinished work would wait for for ever: its child, and what ops.awaited returns,
-- - what other work has locked, or whose parent it has locked: the parent may just be resumed,
-- - with the `root` of a family: what still has something below it, which would not be found from the root any more.
CREATE FUNCTION ops.delete_ended(ids text[], root text DEFAULT NULL) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parents text[];
    awaited text[];
    chosen text[];
BEGIN
    -- They stay as they are until the end of the transaction.
    SELECT array_agg(locked.workflow_uuid) INTO parents FROM (
        SELECT p.workflow_uuid FROM dbos.workflow_status p
        WHERE p.workflow_uuid IN (
                SELECT w.parent_workflow_id FROM dbos.workflow_status w WHERE w.workflow_uuid = ANY (ids))
          AND p.status IN ('SUCCESS', 'ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')
        ORDER BY p.workflow_uuid FOR SHARE SKIP LOCKED) AS locked;
    SELECT coalesce(array_agg(a.child), '{}') INTO awaited FROM ops.awaited(ids) AS a;
    SELECT array_agg(locked.workflow_uuid) INTO chosen FROM (
        -- A join: NOT EXISTS in an OR reads the whole table into a hash.
        SELECT w.workflow_uuid
        FROM dbos.workflow_status w LEFT JOIN dbos.workflow_status p ON p.workflow_uuid = w.parent_workflow_id
        WHERE w.workflow_uuid = ANY (ids) AND w.workflow_uuid <> ALL (awaited)
          AND w.status IN ('SUCCESS', 'ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED')
          AND (p.workflow_uuid IS NULL OR w.parent_workflow_id = ANY (parents))
        ORDER BY w.workflow_uuid FOR UPDATE OF w SKIP LOCKED) AS locked;
    IF root IS NOT NULL THEN
        WITH RECURSIVE kept AS (
            SELECT c.parent_workflow_id AS id FROM dbos.workflow_status c
            WHERE c.parent_workflow_id = ANY (chosen) AND c.workflow_uuid <> ALL (chosen) AND c.workflow_uuid <> root
            UNION
            SELECT w.parent_workflow_id FROM kept k JOIN dbos.workflow_status w ON w.workflow_uuid = k.id
            WHERE w.parent_workflow_id = ANY (chosen) AND w.workflow_uuid <> root)
        SELECT array_agg(c.id) INTO chosen FROM unnest(chosen) AS c (id) WHERE c.id NOT IN (SELECT k.id FROM kept k);
    END IF;
    -- These have no foreign key.
    DELETE FROM dbos.workflow_input i WHERE i.workflow_uuid = ANY (chosen);
    DELETE FROM dbos.workflow_output o WHERE o.workflow_uuid = ANY (chosen);
    DELETE FROM dbos.operation_outputs s WHERE s.workflow_uuid = ANY (chosen);
    RETURN QUERY DELETE FROM dbos.workflow_status w WHERE w.workflow_uuid = ANY (chosen) RETURNING w.workflow_uuid;
END $$;
