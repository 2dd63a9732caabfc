-- Rights of the two processes, given again at every migration so that new tables are covered.
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['holdfast_api', 'holdfast_worker'] LOOP
        CONTINUE WHEN NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name);
        EXECUTE format('GRANT USAGE ON SCHEMA dbos, ops TO %I', role_name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA dbos TO %I', role_name);
        EXECUTE format('GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA dbos TO %I', role_name);
        EXECUTE format('GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA dbos TO %I', role_name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA ops TO %I', role_name);
        EXECUTE format('GRANT DELETE ON ops.crashes TO %I', role_name);
        EXECUTE format('REVOKE INSERT, UPDATE ON ops.migrations FROM %I', role_name);
        EXECUTE format('REVOKE INSERT, UPDATE ON ops.totals, ops.totals_until, ops.countable FROM %I', role_name);
        EXECUTE format('REVOKE UPDATE ON ops.effects FROM %I', role_name);
    END LOOP;
END $$;
