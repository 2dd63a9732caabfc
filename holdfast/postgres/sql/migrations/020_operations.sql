-- Control operations: cancel, resume, adopt. Each acts in batches, and a batch and the count of what it did are one
-- transaction. So an operation goes on wherever its process ended, and its row is the record of what was done.
CREATE TABLE ops.operations (
    operation_id text PRIMARY KEY,
    kind text NOT NULL,
    -- What it acts on. Two operations never act on the same at the same time.
    target text NOT NULL,
    arguments jsonb NOT NULL,
    requested_by text NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    status text NOT NULL DEFAULT 'RUNNING' CHECK (status IN ('RUNNING', 'SUCCESS', 'ERROR')),
    completed bigint NOT NULL DEFAULT 0,
    -- How much is known to be there, NULL until that was read once; more may be found later.
    total bigint,
    advanced_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- It makes a pause until then.
    due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Why it makes a pause, while it does; how it failed, once it has.
    note text,
    ended_at timestamptz,
    CHECK ((status = 'RUNNING') = (ended_at IS NULL))
);
CREATE UNIQUE INDEX operations_target ON ops.operations (target) WHERE ended_at IS NULL;
CREATE INDEX operations_requested_at ON ops.operations (requested_at, operation_id);
