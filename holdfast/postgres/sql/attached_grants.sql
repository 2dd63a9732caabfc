-- The privileges of an attached application, for the role in the setting holdfast.grantee: all that DBOS grants to an
-- application, except DDL and TRUNCATE, and what lease, sweep, takeover, drain, waits and poison write in ops.
DO $$
DECLARE
    grantee constant text := current_setting('holdfast.grantee');
    place constant text := (SELECT relnamespace::regnamespace FROM pg_class WHERE oid = 'dbos.workflow_status'::regclass);
    found record;
BEGIN
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA %s, ops FROM %I', place, grantee);
    EXECUTE format('GRANT USAGE ON SCHEMA %s, ops TO %I', place, grantee);
    EXECUTE format('GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA %s TO %I', place, grantee);
    FOR found IN SELECT oid::regclass AS name, relname ~ '_migrations$' AS version FROM pg_class
                 WHERE relnamespace = place::regnamespace AND relkind IN ('r', 'p') LOOP
        EXECUTE format('GRANT %s ON %s TO %I',
            CASE WHEN found.version THEN 'SELECT' ELSE 'SELECT, INSERT, UPDATE, DELETE' END, found.name, grantee);
    END LOOP;
    EXECUTE format('GRANT SELECT ON ops.migrations, ops.registrations, ops.executors, ops.handovers, ops.crashes, ops.waits,
        ops.schedules, ops.applications TO %I', grantee);
    EXECUTE format('GRANT INSERT, UPDATE ON ops.executors, ops.registrations, ops.handovers TO %I', grantee);
    EXECUTE format('GRANT INSERT, UPDATE, DELETE ON ops.crashes, ops.waits TO %I', grantee);
    EXECUTE format('GRANT INSERT, UPDATE (attached_at, dbos_version) ON ops.applications TO %I', grantee);
    -- The function ends the sessions of a dead executor only.
    EXECUTE format('GRANT EXECUTE ON FUNCTION ops.end_sessions(text) TO %I', grantee);
END $$;
