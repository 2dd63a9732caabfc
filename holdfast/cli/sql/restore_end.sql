-- Input for psql after the archive's own statements, which leave search_path empty.

-- The executors that were live at the time of the backup no longer exist. If the sweep declared them dead, it
-- would count a crash for each of their workflows. Marked as dead here, they have no live executor, and the
-- sweep releases their work without a crash.
UPDATE ops.executors
SET state = 'dead', reason = 'restored from a backup', lost_at = heartbeat_at, ended_at = clock_timestamp(),
    in_flight = 0
WHERE state IN ('live', 'draining');

-- An archive contains no statistics, and without them the first query plans are bad.
DO $$
DECLARE
    found regclass;
BEGIN
    FOR found IN SELECT c.oid FROM pg_catalog.pg_class c
        WHERE c.relkind = 'r' AND c.relnamespace IN ('dbos'::regnamespace, 'ops'::regnamespace)
    LOOP
        EXECUTE format('ANALYZE %s', found);
    END LOOP;
END $$;

-- The reader of this line sends the COMMIT.
\echo loaded
