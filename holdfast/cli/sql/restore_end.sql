-- For psql, after the archive's own statements, which left search_path empty.

-- Who lived when the backup was made is gone, and nobody saw it die: were it left to the sweep, each of its
-- workflows would be counted a crash. Their work is now that of no live executor, and the sweep gives it back.
UPDATE ops.executors
SET state = 'dead', reason = 'restored from a backup', lost_at = heartbeat_at, ended_at = clock_timestamp(),
    in_flight = 0
WHERE state IN ('live', 'draining');

-- An archive holds no statistics, and without them the first plans are bad ones.
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

-- Whoever reads this sends the COMMIT.
\echo loaded
