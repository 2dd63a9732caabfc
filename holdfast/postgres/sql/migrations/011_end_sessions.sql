-- Ends the sessions of a dead executor for a sweeper of another role, with the rights of the owner, which is a
-- member of both roles (postgres/roles.sql). Where it is not, it ends none: what those sessions hold then ends
-- with their idle limit.
CREATE FUNCTION ops.end_sessions(executor text) RETURNS bigint LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a
    WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
      AND starts_with(a.application_name, 'holdfast/' || executor || '/')
      AND pg_has_role(a.usesysid, 'USAGE')
      AND EXISTS (SELECT FROM ops.executors e WHERE e.executor_id = executor AND e.state = 'dead')
$$;
