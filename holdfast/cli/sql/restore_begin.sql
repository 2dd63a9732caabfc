-- Input for psql before the archive's own statements. All of it is one transaction.
SET client_min_messages = warning;
BEGIN;
SET LOCAL lock_timeout = '30s';
-- The lock of `migrate` excludes a concurrent migration or restore. It also shows in pg_locks.
SELECT pg_advisory_xact_lock(7031, 0);

-- The sessions of processes that have just ended may take a moment to close.
DO $$
BEGIN
    FOR i IN 1..100 LOOP
        PERFORM pg_stat_clear_snapshot();
        EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
            AND (usename IN ('holdfast_api', 'holdfast_worker', 'holdfast_metrics')
                 OR starts_with(usename, 'holdfast_app_')));
        IF i = 100 THEN
            RAISE 'an API, a worker, a user''s application or a command is still connected to this database';
        END IF;
        PERFORM pg_sleep(0.1);
    END LOOP;
END $$;

-- Workflows of the schedules do not count: they exist as soon as a stack runs, and their loss does no harm.
\if :replace
\else
DO $$
DECLARE
    found boolean := false;
BEGIN
    IF to_regclass('dbos.workflow_status') IS NOT NULL THEN
        LOCK TABLE dbos.workflow_status IN ACCESS EXCLUSIVE MODE;
        SELECT EXISTS (SELECT FROM dbos.workflow_status WHERE schedule_name IS NULL) INTO found;
        IF found THEN
            RAISE 'workflows have come into this database; --replace deletes them';
        END IF;
    END IF;
END $$;
\endif

DROP SCHEMA IF EXISTS dbos, ops CASCADE;
