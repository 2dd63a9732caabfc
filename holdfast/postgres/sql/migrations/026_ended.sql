-- How often workflows ended, by name and stored status, for /metrics. It is counted where the status is stored: whichever
-- process or client stores it (a cancel, DBOS's own dead letters), and even if that process dies right afterwards. Each
-- end adds a row, because a counter's row would be a lock that all ends wait for. ops.fold_ended sums the rows up.
CREATE TABLE ops.ended (
    workflow_name text NOT NULL,
    status text NOT NULL,
    workflows bigint NOT NULL DEFAULT 1
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- As before (010_each_end.sql), and counts the end. A role that ends workflows has no right to write that table.
CREATE OR REPLACE FUNCTION ops.notify_done() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    payload text := char_length(NEW.workflow_uuid) || ':' || NEW.workflow_uuid || coalesce(NEW.parent_workflow_id, '');
BEGIN
    INSERT INTO ops.ended (workflow_name, status) VALUES (left(coalesce(NEW.name, ''), 200), NEW.status);
    PERFORM pg_notify('holdfast_done', CASE WHEN octet_length(payload) < 7900 THEN payload ELSE '' END);
    RETURN NULL;
END $$;

-- Replaces rows by their sums, so that a scrape reads few. Every executor calls it regularly. A call without effect:
-- there are few rows, or another executor does it. A call takes at most 20,000 rows, so it is short. Names beyond a
-- thousand, which only a faulty client can cause, become one without a name.
CREATE FUNCTION ops.fold_ended() RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (SELECT count(*) FROM (SELECT FROM ops.ended LIMIT 5001) AS bounded) <= 5000
            OR NOT pg_try_advisory_xact_lock(7031, -2) THEN
        RETURN;
    END IF;
    WITH gone AS (
        DELETE FROM ops.ended WHERE ctid = ANY (ARRAY(SELECT ctid FROM ops.ended LIMIT 20000))
        RETURNING workflow_name, status, workflows
    ), names AS (
        SELECT workflow_name, row_number() OVER (ORDER BY sum(workflows) DESC, workflow_name) <= 1000 AS kept
        FROM gone GROUP BY 1)
    INSERT INTO ops.ended (workflow_name, status, workflows)
    SELECT CASE WHEN n.kept THEN workflow_name ELSE '' END, g.status, sum(g.workflows)
    FROM gone g JOIN names n USING (workflow_name) GROUP BY 1, 2;
END $$;
REVOKE ALL ON FUNCTION ops.fold_ended() FROM PUBLIC;
