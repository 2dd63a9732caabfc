-- Row level security: an application that `holdfast app add` made reaches only its own rows. Its role is a member of
-- holdfast_apps, is called holdfast_app_ and the application's name, and creates no roles. Every other role sees
-- every row, as before. Rows without an application (from before, or of a client of the stack's that named none) are
-- everybody's to read and to take, but none of these roles writes one: every application would run its work.
CREATE OR REPLACE FUNCTION ops.name_application() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.application_name := substr(current_user, 14);
    RETURN NEW;
END $$;

-- DBOS expects the answer of its foreign key. A policy would refuse the message with an error that DBOS does not know.
CREATE OR REPLACE FUNCTION ops.find_destination() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM dbos.workflow_status own WHERE own.workflow_uuid = NEW.destination_uuid
                   AND own.application_name = substr(current_user, 14)) THEN
        RAISE EXCEPTION 'the application % has no such workflow', substr(current_user, 14)
            USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NEW;
END $$;

DO $$
DECLARE
    own constant text := 'application_name = substr(current_user, 14)';
    free constant text := '(application_name IS NULL OR application_name = substr(current_user, 14))';
    -- The policy of workflow_status applies to what this reads.
    of_free constant text := 'EXISTS (SELECT FROM dbos.workflow_status own WHERE own.workflow_uuid = %s)';
    of_own constant text := 'EXISTS (SELECT FROM dbos.workflow_status own WHERE own.workflow_uuid = %s
        AND own.application_name = substr(current_user, 14))';
    rule record;
    kept text[] := '{}';
BEGIN
    FOR rule IN SELECT t.name::regclass AS name, t.command, t.reached, t.written,
            -- The name changes with the conditions, so that a database from before gets a new policy.
            format('holdfast_own_%s_%s', lower(t.command), left(md5(t.reached || t.written), 8)) AS policy
        FROM (VALUES
            ('dbos.workflow_status', 'ALL', free, own),
            -- The stack's processes read every step of their workflows, whoever wrote it.
            ('dbos.operation_outputs', 'ALL', free, own || ' AND ' || format(of_own, 'operation_outputs.workflow_uuid')),
            ('dbos.workflow_schedules', 'ALL', free, own),
            -- Names of queues and versions are unique in the database: DBOS reads whose they are.
            ('dbos.queues', 'INSERT', '', own),
            ('dbos.queues', 'UPDATE', free, own),
            ('dbos.queues', 'DELETE', free, ''),
            ('dbos.application_versions', 'INSERT', '', own),
            ('dbos.application_versions', 'UPDATE', free, own),
            ('dbos.application_versions', 'DELETE', free, ''),
            ('dbos.workflow_input', 'ALL', format(of_free, 'workflow_input.workflow_uuid'),
                format(of_own, 'workflow_input.workflow_uuid')),
            ('dbos.workflow_output', 'ALL', format(of_free, 'workflow_output.workflow_uuid'),
                format(of_own, 'workflow_output.workflow_uuid')),
            ('dbos.workflow_events', 'ALL', format(of_free, 'workflow_events.workflow_uuid'),
                format(of_own, 'workflow_events.workflow_uuid')),
            ('dbos.workflow_events_history', 'ALL', format(of_free, 'workflow_events_history.workflow_uuid'),
                format(of_own, 'workflow_events_history.workflow_uuid')),
            ('dbos.streams', 'ALL', format(of_free, 'streams.workflow_uuid'), format(of_own, 'streams.workflow_uuid')),
            ('dbos.notifications', 'ALL', format(of_free, 'notifications.destination_uuid'),
                format(of_own, 'notifications.destination_uuid')),
            ('dbos.datasource_outputs', 'ALL', format(of_free, 'datasource_outputs.workflow_id'),
                format(of_own, 'datasource_outputs.workflow_id')),
            ('ops.handovers', 'ALL', format(of_free, 'handovers.workflow_id'), format(of_free, 'handovers.workflow_id')),
            ('ops.crashes', 'ALL', format(of_free, 'crashes.workflow_id'), format(of_free, 'crashes.workflow_id')),
            ('ops.waits', 'ALL', format(of_free, 'waits.workflow_id'), format(of_free, 'waits.workflow_id')),
            ('ops.revoked', 'ALL', format(of_free, 'revoked.workflow_id'), format(of_free, 'revoked.workflow_id')),
            ('ops.registrations', 'ALL',
                'EXISTS (SELECT FROM ops.executors own WHERE own.executor_id = registrations.executor_id)',
                'EXISTS (SELECT FROM ops.executors own WHERE own.executor_id = registrations.executor_id)'),
            ('ops.executors', 'ALL', 'application = substr(current_user, 14)', 'application = substr(current_user, 14)'),
            ('ops.applications', 'ALL', 'name = substr(current_user, 14)', 'name = substr(current_user, 14)')
        ) AS t (name, command, reached, written) LOOP
        kept := kept || format('%s %s', rule.name, rule.policy);
        CONTINUE WHEN EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = rule.name AND p.polname = rule.policy);
        EXECUTE format('CREATE POLICY %I ON %s AS RESTRICTIVE FOR %s TO holdfast_apps %s %s',
            rule.policy, rule.name, rule.command,
            CASE WHEN rule.reached <> '' THEN 'USING (' || rule.reached || ')' ELSE '' END,
            CASE WHEN rule.written <> '' THEN 'WITH CHECK (' || rule.written || ')' ELSE '' END);
        IF NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = rule.name AND p.polname = 'holdfast_everybody') THEN
            EXECUTE format('CREATE POLICY holdfast_everybody ON %s USING (true) WITH CHECK (true)', rule.name);
            EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', rule.name);
        END IF;
    END LOOP;

    FOR rule IN SELECT p.polrelid::regclass AS name, p.polname AS policy FROM pg_policy p
                WHERE starts_with(p.polname::text, 'holdfast_own_')
                  AND format('%s %s', p.polrelid::regclass, p.polname) <> ALL (kept) LOOP
        EXECUTE format('DROP POLICY %I ON %s', rule.policy, rule.name);
    END LOOP;

    -- The condition is checked without a call of the function, so that the usual row costs nothing.
    FOR rule IN SELECT t.name::regclass AS name, t.happens, t.condition, t.function FROM (VALUES
            ('dbos.workflow_status', 'INSERT OR UPDATE', 'NEW.application_name IS NULL AND ', 'ops.name_application()'),
            ('dbos.operation_outputs', 'INSERT OR UPDATE', 'NEW.application_name IS NULL AND ', 'ops.name_application()'),
            ('dbos.workflow_schedules', 'INSERT OR UPDATE', 'NEW.application_name IS NULL AND ', 'ops.name_application()'),
            ('dbos.queues', 'INSERT OR UPDATE', 'NEW.application_name IS NULL AND ', 'ops.name_application()'),
            ('dbos.application_versions', 'INSERT OR UPDATE', 'NEW.application_name IS NULL AND ',
                'ops.name_application()'),
            ('dbos.notifications', 'INSERT', '', 'ops.find_destination()')
        ) AS t (name, happens, condition, function)
        WHERE NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = t.name::regclass AND g.tgname = 'holdfast_own') LOOP
        EXECUTE format('CREATE TRIGGER holdfast_own BEFORE %s ON %s FOR EACH ROW
            WHEN (%s starts_with(current_user, ''holdfast_app_'')) EXECUTE FUNCTION %s',
            rule.happens, rule.name, rule.condition, rule.function);
    END LOOP;
END $$;
