-- The workflows that an executor has registered, so that the API can start them by name. One row per executor,
-- written once it has launched. The table is apart from ops.executors because each heartbeat rewrites a row there.
CREATE TABLE ops.registrations (
    executor_id text PRIMARY KEY REFERENCES ops.executors ON DELETE CASCADE,
    -- the name of the application's serializer, as dbos.workflow_status.serialization has it
    serializer text NOT NULL,
    -- by durable name: {"class": "Till", "instances": ["one"], "portable": true}, without what does not apply
    workflows jsonb NOT NULL
);
