-- How often workflows ended, by name and stored status, for /metrics. It is counted where the status is stored: whichever
-- process or client stores it (a cancel, DBOS's own dead letters), and even if that process dies right afterwards. Each
-- end adds a row, because a counter's row would be a lock that all ends wait for. ops.fold_ended sums the rows up.
CREATE TABLE ops.ended (
    workflow_name text NOT NULL,
    status text NOT NULL,
    workflows bigint NOT NULL DEFAULT 1,
    folded boolean NOT NULL DEFAULT false
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

-- The names that are counted: a thousand, more of which only a faulty client can cause. Sums keep theirs. All others
-- count together, without a name.
CREATE VIEW ops.ended_names AS
SELECT workflow_name, row_number() OVER (ORDER BY bool_or(folded) DESC, sum(workflows) DESC, workflow_name) <= 1000 AS counted
FROM ops.ended WHERE workflow_name <> '' GROUP BY 1;

-- Replaces rows by their sums, so that a scrape reads few. Every executor calls it regularly. A call without effect:
-- there are few rows and names, or another executor does it. A call takes at most 5,000 rows, because a takeover may wait for it.
-- Returns whether there may be more to do.
CREATE FUNCTION ops.fold_ended() RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    sums integer;
BEGIN
    IF (SELECT count(*) FROM (SELECT FROM ops.ended LIMIT 5001) AS bounded) <= 5000
            AND NOT EXISTS (SELECT FROM ops.ended_names WHERE NOT counted)
            OR NOT pg_try_advisory_xact_lock(7031, -2) THEN
        RETURN false;
    END IF;
    WITH gone AS (
        DELETE FROM ops.ended WHERE ctid = ANY (ARRAY(SELECT ctid FROM ops.ended LIMIT 5000))
        RETURNING workflow_name, status, workflows)
    INSERT INTO ops.ended (workflow_name, status, workflows, folded)
    SELECT CASE WHEN n.counted THEN g.workflow_name ELSE '' END, g.status, sum(g.workflows), true
    FROM gone g LEFT JOIN ops.ended_names n USING (workflow_name) GROUP BY 1, 2;
    GET DIAGNOSTICS sums = ROW_COUNT;
    RETURN sums < 4900;
END $$;
REVOKE ALL ON FUNCTION ops.fold_ended() FROM PUBLIC;
