-- Row level security: an application that `holdfast app add` made reaches only its own rows. Its role is a member of
-- holdfast_apps, is called holdfast_app_ and the application's name, and creates no roles. Every other role sees
-- every row, as before. Rows without an application (written through a client that named none) are everybody's.
-- Policies are created once: a change of one needs another name.
DO $$
DECLARE
    own constant text := '(application_name IS NULL OR application_name = substr(current_user, 14))';
    of_own constant text := 'EXISTS (SELECT FROM dbos.workflow_status own WHERE own.workflow_uuid = %s)';
    rule record;
BEGIN
    FOR rule IN SELECT t.name::regclass AS name, command, condition FROM (VALUES
        ('dbos.workflow_status', 'ALL', own),
        ('dbos.operation_outputs', 'ALL', own),
        ('dbos.workflow_schedules', 'ALL', own),
        ('dbos.application_versions', 'ALL', own),
        -- A queue's name is unique in the database: DBOS reads whose it is.
        ('dbos.queues', 'INSERT', own), ('dbos.queues', 'UPDATE', own), ('dbos.queues', 'DELETE', own),
        ('dbos.workflow_input', 'ALL', format(of_own, 'workflow_input.workflow_uuid')),
        ('dbos.workflow_output', 'ALL', format(of_own, 'workflow_output.workflow_uuid')),
        ('dbos.workflow_events', 'ALL', format(of_own, 'workflow_events.workflow_uuid')),
        ('dbos.workflow_events_history', 'ALL', format(of_own, 'workflow_events_history.workflow_uuid')),
        ('dbos.streams', 'ALL', format(of_own, 'streams.workflow_uuid')),
        ('dbos.notifications', 'ALL', format(of_own, 'notifications.destination_uuid')),
        ('ops.handovers', 'ALL', format(of_own, 'handovers.workflow_id')),
        ('ops.crashes', 'ALL', format(of_own, 'crashes.workflow_id')),
        ('ops.waits', 'ALL', format(of_own, 'waits.workflow_id')),
        ('ops.registrations', 'ALL',
            'EXISTS (SELECT FROM ops.executors own WHERE own.executor_id = registrations.executor_id)'),
        ('ops.executors', 'ALL', 'application = substr(current_user, 14)'),
        ('ops.applications', 'ALL', 'name = substr(current_user, 14)')
    ) AS t (name, command, condition)
    WHERE NOT EXISTS (SELECT FROM pg_policy p
                      WHERE p.polrelid = t.name::regclass AND p.polname = 'holdfast_own_' || lower(t.command)) LOOP
        EXECUTE format('CREATE POLICY %I ON %s AS RESTRICTIVE FOR %s TO holdfast_apps %s',
            'holdfast_own_' || lower(rule.command), rule.name, rule.command,
            CASE WHEN rule.command <> 'INSERT' THEN 'USING (' || rule.condition || ')' ELSE '' END
            || CASE WHEN rule.command IN ('ALL', 'INSERT', 'UPDATE') THEN ' WITH CHECK (' || rule.condition || ')'
                    ELSE '' END);
        IF NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = rule.name AND p.polname = 'holdfast_everybody') THEN
            EXECUTE format('CREATE POLICY holdfast_everybody ON %s USING (true) WITH CHECK (true)', rule.name);
            EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', rule.name);
        END IF;
    END LOOP;
END $$;
