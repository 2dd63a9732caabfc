-- The privileges of an attached application, for the role in the setting holdfast.grantee: what DBOS's processes and
-- clients need of DBOS's tables, except DDL and TRUNCATE, and what lease, sweep, takeover, drain, waits and poison
-- write in ops. A table that is not here is not reached: before it is added, it needs a policy (isolation.sql).
-- With holdfast.grant_only, the role keeps what else it has.
DO $$
DECLARE
    grantee constant text := current_setting('holdfast.grantee');
    place constant text := (SELECT relnamespace::regnamespace FROM pg_class WHERE oid = 'dbos.workflow_status'::regclass);
    may record;
BEGIN
    IF current_setting('holdfast.grant_only') <> 'true' THEN
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA %s, ops FROM %I', place, grantee);
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA %s, ops TO %I', place, grantee);
    EXECUTE format('GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA %s TO %I', place, grantee);
    FOR may IN SELECT v.rights, to_regclass(format('%s.%I', place, t.name)) AS name FROM (VALUES
            ('SELECT, INSERT, UPDATE, DELETE', ARRAY['workflow_status', 'workflow_input', 'workflow_output',
                'operation_outputs', 'workflow_events', 'workflow_events_history', 'streams', 'notifications', 'queues',
                'workflow_schedules', 'application_versions', 'datasource_outputs']),
            ('SELECT', ARRAY['dbos_migrations', 'dbos_datasource_migrations'])
        ) AS v (rights, names), unnest(v.names) AS t (name) LOOP
        -- An older DBOS does not have all of them.
        CONTINUE WHEN may.name IS NULL;
        EXECUTE format('GRANT %s ON %s TO %I', may.rights, may.name, grantee);
    END LOOP;
    EXECUTE format('GRANT SELECT ON ops.migrations, ops.registrations, ops.executors, ops.handovers, ops.crashes, ops.waits,
        ops.revoked, ops.applications TO %I', grantee);
    EXECUTE format('GRANT DELETE ON ops.revoked TO %I', grantee);
    EXECUTE format('GRANT INSERT, UPDATE ON ops.executors, ops.registrations, ops.handovers TO %I', grantee);
    EXECUTE format('GRANT INSERT, UPDATE, DELETE ON ops.crashes, ops.waits TO %I', grantee);
    EXECUTE format('GRANT INSERT, UPDATE (attached_at, dbos_version) ON ops.applications TO %I', grantee);
    -- The function ends the sessions of a dead executor only.
    EXECUTE format('GRANT EXECUTE ON FUNCTION ops.end_sessions(text) TO %I', grantee);
    -- The function changes no sum.
    EXECUTE format('GRANT EXECUTE ON FUNCTION ops.fold_ended() TO %I', grantee);
    EXECUTE format('GRANT EXECUTE ON FUNCTION ops.arguments_fit(text, jsonb) TO %I', grantee);
END $$;
