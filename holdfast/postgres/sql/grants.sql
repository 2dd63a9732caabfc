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
    REVOKE ALL ON FUNCTION ops.fold_totals(), ops.forget_deleted(), ops.notify_cancelled(), ops.end_sessions(text), ops.note_schedule(),
        ops.fire_tick(text, text, timestamptz, text, text, text, text, text, text),
        ops.start_waiting_tick(text), ops.end_scheduled_run(), ops.resume_scheduled_run(),
        ops.reopen(text, bigint, integer, text, text), ops.delete_ended(text[]),
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

        ('holdfast_api holdfast_worker', 'INSERT, UPDATE', 'ops.executors, ops.handovers, ops.registrations, ops.definitions'),
        ('holdfast_api holdfast_worker', 'INSERT, UPDATE, DELETE', 'ops.crashes, ops.waits'),
        ('holdfast_api holdfast_worker', 'DELETE', 'ops.revoked'),
        ('holdfast_api', 'INSERT, UPDATE', 'ops.requests, ops.operations'),
        ('holdfast_worker', 'INSERT', 'ops.pulses, ops.effects'),
        ('holdfast_worker', 'INSERT, UPDATE', 'ops.schedules'),
        ('holdfast_worker', 'EXECUTE', 'FUNCTION ops.fold_totals(),
            ops.fire_tick(text, text, timestamptz, text, text, text, text, text, text)'),
        -- The function ends the sessions of a dead executor only.
        ('holdfast_api holdfast_worker', 'EXECUTE', 'FUNCTION ops.end_sessions(text)'),
        -- The function deletes failed steps of failed workflows only.
        ('holdfast_api', 'EXECUTE', 'FUNCTION ops.reopen(text, bigint, integer, text, text)'),

        -- The function deletes workflows that have ended, by their ids.
        ('holdfast_api holdfast_worker', 'EXECUTE', 'FUNCTION ops.delete_ended(text[])'),

        -- For the condition of a claim.
        ('holdfast_api holdfast_worker', 'EXECUTE', 'FUNCTION ops.arguments_fit(text, jsonb)'),

        -- The function returns counts and names, and reads the arguments of waiting work for that.
        ('holdfast_api holdfast_worker holdfast_metrics', 'EXECUTE', 'FUNCTION ops.stranded_work(double precision)'),

        -- For a purge; the tables of DBOS for one of an earlier release, which does not call the function above. A trigger
        -- protects unfinished work, and effects are deleted only with their workflow.
        ('holdfast_worker', 'DELETE', 'dbos.workflow_status, dbos.workflow_input, dbos.workflow_output,
            dbos.operation_outputs, ops.pulses, ops.requests, ops.handovers, ops.executors, ops.operations'),
        ('holdfast_worker', 'UPDATE', 'ops.retention'),

        -- For /metrics: no input and no result of any workflow.
        ('holdfast_metrics', 'SELECT', 'dbos.workflow_status, dbos.queues, ops.executors, ops.pulses,
            ops.totals, ops.totals_until, ops.countable, ops.retention, ops.schedules, ops.applications, ops.protected')
    ) AS v (roles, rights, place) JOIN pg_roles r ON r.rolname = ANY (string_to_array(v.roles, ' '))
    WHERE current_user = 'holdfast_owner' LOOP
        EXECUTE format('GRANT %s ON %s TO %I', may.rights, may.place, may.rolname);
    END LOOP;
END $$;
