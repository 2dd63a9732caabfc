-- A tick that is deleted soon after it was fired stays known: a process that fires it late does not start it again, and
-- it is not counted as missed. It is stored beside those that were skipped, and the counter of these stays as it is.
CREATE FUNCTION ops.keep_ticks_known() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO ops.skipped_ticks (tick_id, schedule_name)
    SELECT g.workflow_uuid, g.schedule_name FROM gone g JOIN ops.schedules USING (schedule_name)
    WHERE g.created_at > extract(epoch FROM clock_timestamp() - interval '1 day') * 1000
    ON CONFLICT DO NOTHING;
    -- As ops.fire_tick does. What another deletion has locked is being deleted.
    DELETE FROM ops.skipped_ticks WHERE tick_id IN (
        SELECT t.tick_id FROM ops.skipped_ticks t
        WHERE t.schedule_name IN (SELECT g.schedule_name FROM gone g)
          AND t.skipped_at < clock_timestamp() - interval '7 days'
        FOR UPDATE SKIP LOCKED);
    RETURN NULL;
END $$;

CREATE TRIGGER holdfast_keep_ticks_known AFTER DELETE ON dbos.workflow_status
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION ops.keep_ticks_known();
