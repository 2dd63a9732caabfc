-- The definitions of queues and schedules that code has declared, and which of them applies. Code of several releases may
-- run side by side: the definition that was first declared last belongs to the newest (definitions.py).
CREATE TABLE ops.definitions (
    application text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('queue', 'schedule')),
    name text NOT NULL,
    definition jsonb NOT NULL,
    first_declared_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Whether DBOS's row was last written from it.
    applies boolean NOT NULL DEFAULT false
);
CREATE UNIQUE INDEX definitions_key ON ops.definitions (application, kind, name, md5(definition::text));
-- What the code of an executor declares, by kind and name. An attached application and older releases have no row.
CREATE TABLE ops.declarations (
    executor_id text PRIMARY KEY REFERENCES ops.executors ON DELETE CASCADE,
    definitions jsonb NOT NULL
);
-- Whether a schedule of DBOS's own calls is paused because no live code has its workflow. It is resumed when live code
-- has it again. A schedule that code declares is resumed by that code's start.
ALTER TABLE ops.schedules ADD COLUMN forgotten boolean NOT NULL DEFAULT false;
