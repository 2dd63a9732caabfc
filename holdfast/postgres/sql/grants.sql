-- The privileges of the stack's roles, granted again at every migration. A role has no other privileges. Both
-- applications share DBOS's tables, so neither role is kept from the other's rows (docs/operate/security.md).
-- attached_grants.sql has those of users' applications. Where the stack's owner does not own the tables, this
-- database is a user's, whatever roles its server has.
DO $$
DECLARE
    may record;
BEGIN
    FOR may IN SELECT rolname FROM pg_roles
               WHERE rolname IN ('holdfast_api', 'holdfast_worker', 'holdfast_metrics')
                 AND current_user = 'holdfast_owner' LOOP
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA dbos, ops FROM %I', may.rolname);
        EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA dbos, ops FROM %I', may.rolname);
        EXECUTE format('GRANT USAGE ON SCHEMA dbos, ops TO %I', may.rolname);
    END LOOP;
    -- These functions run with their owner's privileges, for the worker, from triggers.
    REVOKE ALL ON FUNCTION ops.fold_totals(), ops.forget_deleted(), ops.notify_cancelled(), ops.notify_done(),
        ops.fold_ended(), ops.end_sessions(text), ops.note_schedule(), ops.keep_ticks_known(),
        ops.fire_tick(text, text, timestamptz, text, text, text, text, text, text),
        ops.start_waiting_tick(text), ops.end_scheduled_run(), ops.resume_scheduled_run(),
        ops.reopen(text, bigint, integer, text, text), ops.delete_ended(text[], text),
        ops.stranded_work(double precision) FROM PUBLIC;

    FOR may IN SELECT r.rolname, v.rights, v.place FROM (VALUES
        -- For a launched DBOS application, and for a client.
        ('holdfast_api holdfast_worker', 'SELECT', 'ALL TABLES IN SCHEMA dbos, ops'),
        ('holdfast_api holdfast_worker', 'USAGE, SELECT', 'ALL SEQUENCES IN SCHEMA dbos'),
        ('holdfast_api holdfast_worker', 'INSERT, UPDATE', 'dbos.workflow_status, dbos.workflow_input,
            dbos.workflow_output, dbos.operation_outputs, dbos.queues, dbos.application_versions'),
        -- Events, messages and streams, also those that a fork copies. Sent messages and stream values never
        -- change; a message is only marked as received. Foreign keys delete them with their workflow.
        ('holdfast_api holdfast_worker', 'INSERT',
            'dbos.workflow_events, dbos.workflow_events_history, dbos.notifications, dbos.streams'),
        ('holdfast_api holdfast_worker', 'UPDATE (value, serialization)',
            'dbos.workflow_events, dbos.workflow_events_history'),
        ('holdfast_api holdfast_worker', 'UPDATE (consumed, consumed_by_function_id)', 'dbos.notifications'),
        ('holdfast_worker', 'INSERT, UPDATE', 'dbos.workflow_schedules'),
        -- The effect ledger's markers are deleted when their workflow ends.
        ('holdfast_worker', 'INSERT, DELETE', 'dbos.datasource_outputs'),

        ('holdfast_api holdfast_worker', 'INSERT, UPDATE', 'ops.executors, ops.handovers, ops.registrations, ops.definitions, ops.declarations'),
        ('holdfast_api holdfast_worker', 'INSERT, UPDATE, DELETE', 'ops.crashes, ops.waits'),
        ('holdfast_api holdfast_worker', 'DELETE', 'ops.revoked'),
        ('holdfast_api', 'INSERT, UPDATE', 'ops.requests, ops.operations'),
        ('holdfast_worker', 'INSERT', 'ops.pulses, ops.effects'),
        ('holdfast_worker', 'INSERT, UPDATE', 'ops.schedules'),
        ('holdfast_worker', 'EXECUTE', 'FUNCTION ops.fold_totals(),
            ops.fire_tick(text, text, timestamptz, text, text, text, text, text, text)'),
        -- The function ends the sessions of a dead executor only.
        ('holdfast_api holdfast_worker', 'EXECUTE', 'FUNCTION ops.end_sessions(text)'),
        -- The function changes no sum.
        ('holdfast_api holdfast_worker', 'EXECUTE', 'FUNCTION ops.fold_ended()'),
        -- The function deletes failed steps of failed workflows only.
        ('holdfast_api', 'EXECUTE', 'FUNCTION ops.reopen(text, bigint, integer, text, text)'),

        -- The function deletes workflows that have ended, by their ids.
        ('holdfast_api holdfast_worker', 'EXECUTE', 'FUNCTION ops.delete_ended(text[], text)'),

        -- For the condition of a claim.
        ('holdfast_api holdfast_worker', 'EXECUTE', 'FUNCTION ops.arguments_fit(text, jsonb)'),

        -- The function returns counts and names, and reads the arguments of waiting work for that.
        ('holdfast_api holdfast_worker holdfast_metrics', 'EXECUTE', 'FUNCTION ops.stranded_work(double precision)'),

        -- For a purge; the tables of DBOS for one of an earlier release, which does not call the function above. Triggers
        -- protect unfinished work, and effects are deleted only with their workflow.
        ('holdfast_worker', 'DELETE', 'dbos.workflow_status, dbos.workflow_input, dbos.workflow_output,
            dbos.operation_outputs, ops.pulses, ops.requests, ops.handovers, ops.executors, ops.operations'),
        ('holdfast_worker', 'UPDATE', 'ops.retention'),

        -- For /metrics: no input and no result of any workflow. Rows of older versions of DBOS have them in columns
        -- of workflow_status.
        ('holdfast_metrics', 'SELECT (status, name, queue_name, created_at, application_name, executor_id)',
            'dbos.workflow_status'),
        ('holdfast_metrics', 'SELECT', 'dbos.queues, ops.executors, ops.pulses,
            ops.totals, ops.totals_until, ops.countable, ops.ended, ops.ended_names, ops.retention, ops.schedules, ops.applications,
            ops.protected, ops.registrations')
    ) AS v (roles, rights, place) JOIN pg_roles r ON r.rolname = ANY (string_to_array(v.roles, ' '))
    WHERE current_user = 'holdfast_owner' LOOP
        EXECUTE format('GRANT %s ON %s TO %I', may.rights, may.place, may.rolname);
    END LOOP;
END $$;

-- What belongs to unfinished work cannot be deleted either. DBOS deletes such rows of ended workflows alone: before
-- their status (delete, rewind) or after it (foreign keys). Only the markers of its datasource go while their workflow
-- still runs.
DO $$
DECLARE
    part record;
BEGIN
    IF current_user <> 'holdfast_owner' THEN
        RETURN;
    END IF;
    CREATE OR REPLACE FUNCTION ops.keep_parts() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $function$
    DECLARE
        unfinished text;
    BEGIN
        -- Foreign keys delete from each table once per workflow, mostly nothing.
        PERFORM FROM gone LIMIT 1;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
        -- A subquery per workflow, which uses the primary key: a join may read the whole table.
        EXECUTE format('SELECT g.id FROM (SELECT DISTINCT %I AS id FROM gone) AS g
            WHERE (SELECT w.status NOT IN (''SUCCESS'', ''ERROR'', ''CANCELLED'', ''MAX_RECOVERY_ATTEMPTS_EXCEEDED'')
                   FROM dbos.workflow_status w WHERE w.workflow_uuid = g.id)
            LIMIT 1', TG_ARGV[0]) INTO unfinished;
        IF unfinished IS NOT NULL THEN
            RAISE EXCEPTION 'workflow %: unfinished work is not deleted from %', unfinished, TG_TABLE_NAME
                USING ERRCODE = 'restrict_violation', HINT = 'Cancel it first.';
        END IF;
        RETURN NULL;
    END $function$;
    FOR part IN SELECT t.name::regclass AS name, t.key FROM (VALUES
            ('dbos.workflow_input', 'workflow_uuid'),
            ('dbos.workflow_output', 'workflow_uuid'),
            ('dbos.operation_outputs', 'workflow_uuid'),
            ('dbos.workflow_events', 'workflow_uuid'),
            ('dbos.workflow_events_history', 'workflow_uuid'),
            ('dbos.streams', 'workflow_uuid'),
            ('dbos.notifications', 'destination_uuid')) AS t (name, key)
            WHERE NOT EXISTS (SELECT FROM pg_trigger g
                              WHERE g.tgrelid = t.name::regclass AND g.tgname = 'holdfast_keep_parts') LOOP
        EXECUTE format('CREATE TRIGGER holdfast_keep_parts AFTER DELETE ON %s REFERENCING OLD TABLE AS gone
            FOR EACH STATEMENT EXECUTE FUNCTION ops.keep_parts(%L)', part.name, part.key);
    END LOOP;
END $$;
