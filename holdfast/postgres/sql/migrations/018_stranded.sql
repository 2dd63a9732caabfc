-- What an executor has registered beyond its workflows. queues: those that it listens to; NULL: all that its application
-- has registered. schedules: those that its code declares; NULL: not known (an attached application, or an older release).
ALTER TABLE ops.registrations ADD COLUMN queues text[], ADD COLUMN schedules text[];
-- Whether code has declared the schedule by name, so that it ends where no live code does.
ALTER TABLE ops.schedules ADD COLUMN declared boolean NOT NULL DEFAULT false;

-- Counts unfinished work that no live executor can run, with the reason:
--   version:   no live executor runs its version;
--   queue:     executors of its version live, and none listens to its queue;
--   workflow:  some listen, and none has registered the workflow, its class or its instance;
--   arguments: some have registered it, and none takes the arguments that are stored.
-- An executor that is silent for two leases does not count as live here, even if it was not declared dead: it may be the
-- last one. One that has published nothing (it starts, or is of an older release) may know everything. Applications that
-- were never attached are left out (ops.protected). Only arguments are compared row by row, and only those of the 500
-- workflows that have waited longest: what nothing can claim stays, so that it gets there. The rows of the other reasons
-- are counted in groups, from DBOS's index of unfinished work.
CREATE FUNCTION ops.stranded_work(lease_seconds double precision)
RETURNS TABLE (application text, application_version text, status text, reason text, queue_name text,
               workflow_name text, workflows bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
WITH alive AS MATERIALIZED (
    SELECT e.application, e.application_version, r.executor_id IS NULL AS is_unknown, r.workflows,
           CASE WHEN r.queues IS NOT NULL THEN r.queues || ARRAY[e.suspects_queue, e.trials_queue] END AS queues,
           ARRAY[e.suspects_queue, e.trials_queue] AS own_queues
    FROM ops.executors e LEFT JOIN ops.registrations r USING (executor_id)
    WHERE e.state IN ('live', 'draining')
      AND e.heartbeat_at > statement_timestamp() - make_interval(secs => 2 * lease_seconds)
), unfinished AS (
    SELECT w.application_name, w.application_version, w.status, w.queue_name, w.name, w.class_name, w.config_name,
           count(*) AS workflows
    FROM dbos.workflow_status w
    WHERE w.status IN ('ENQUEUED', 'PENDING')
      AND (w.application_name IS NULL OR w.application_name IN (SELECT p.name FROM ops.protected p))
    GROUP BY 1, 2, 3, 4, 5, 6, 7
), judged AS MATERIALIZED (
    SELECT u.*, CASE
        WHEN NOT coalesce(c.runs, false) THEN CASE WHEN u.application_version IS NOT NULL THEN 'version' END
        WHEN u.status = 'PENDING' THEN NULL
        WHEN c.listens IS NOT TRUE THEN 'queue'
        WHEN c.knows IS NOT TRUE THEN 'workflow'
        ELSE '' END AS reason
    FROM unfinished u
    CROSS JOIN LATERAL (
        SELECT bool_or(true) AS runs, bool_or(a.listens) AS listens, bool_or(a.listens AND a.knows) AS knows
        FROM (
            SELECT l.is_unknown OR u.queue_name = ANY (l.queues) OR u.queue_name IS NULL
                   OR starts_with(u.queue_name, '_dbos_')
                   OR l.queues IS NULL AND (u.queue_name = ANY (l.own_queues) OR EXISTS (
                       SELECT FROM dbos.queues q WHERE q.name = u.queue_name
                         AND (q.application_name = l.application OR q.application_name IS NULL))) AS listens,
                   l.is_unknown OR starts_with(u.name, '<temp>.') OR starts_with(u.name, '_dbos_')
                   OR l.workflows ? u.name
                      AND (u.config_name IS NULL OR l.workflows -> u.name -> 'instances' ? u.config_name)
                      AND (u.class_name IS NULL OR l.workflows -> u.name ->> 'class' = u.class_name) AS knows
            FROM alive l
            WHERE (l.application = u.application_name OR u.application_name IS NULL)
              AND (l.application_version = u.application_version OR u.application_version IS NULL)) AS a) AS c
), oldest AS (
    SELECT w.workflow_uuid, w.application_name, w.application_version, w.status, w.queue_name, w.name, w.class_name,
           w.config_name, w.inputs
    FROM dbos.workflow_status w WHERE w.status = 'ENQUEUED'
    -- "+ 0": otherwise the plan may walk the index of created_at, through all finished work, for the few that wait.
    ORDER BY w.created_at + 0 LIMIT 500
), unfit AS (
    SELECT o.application_name, o.application_version, o.status, 'arguments' AS reason, o.queue_name, o.name
    FROM oldest o
    JOIN judged j ON j.reason = '' AND j.name = o.name AND j.queue_name = o.queue_name AND (j.application_name, j.application_version, j.class_name,
            j.config_name, j.status) IS NOT DISTINCT FROM (o.application_name, o.application_version, o.class_name,
            o.config_name, o.status)
    LEFT JOIN dbos.workflow_input i ON i.workflow_uuid = o.workflow_uuid
    WHERE NOT EXISTS (
        SELECT FROM alive l
        WHERE (l.application = o.application_name OR o.application_name IS NULL)
          AND (l.application_version = o.application_version OR o.application_version IS NULL)
          AND (l.is_unknown OR NOT l.workflows ? o.name AND o.name ~ '^(<temp>[.]|_dbos_)'
               OR l.workflows ? o.name
                  AND ops.arguments_fit(coalesce(i.inputs, o.inputs), l.workflows -> o.name -> 'takes')))
)
SELECT f.application_name, f.application_version, f.status, f.reason,
       CASE WHEN f.reason <> 'version' THEN f.queue_name END, CASE WHEN f.reason <> 'version' THEN f.name END,
       sum(f.workflows)::bigint
FROM (
    SELECT j.application_name, j.application_version, j.status, j.reason, j.queue_name, j.name, j.workflows
    FROM judged j WHERE j.reason <> ''
    UNION ALL
    SELECT u.application_name, u.application_version, u.status, u.reason, u.queue_name, u.name, 1 FROM unfit u) AS f
GROUP BY 1, 2, 3, 4, 5, 6
ORDER BY 1, 2, 3, 4, 5, 6
$$;
REVOKE ALL ON FUNCTION ops.stranded_work(double precision) FROM PUBLIC;
