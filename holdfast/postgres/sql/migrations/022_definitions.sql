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
-- What the executor's code declares, by kind and name. NULL: an attached application, or an older release.
ALTER TABLE ops.registrations ADD COLUMN definitions jsonb;
-- Whether the schedule is paused because no live code declares it. It is resumed when live code does.
ALTER TABLE ops.schedules ADD COLUMN forgotten boolean NOT NULL DEFAULT false;
-- Releases until now resumed each schedule at a worker's start, unless its code decides by a setting.
UPDATE ops.schedules s SET forgotten = true FROM dbos.workflow_schedules d
WHERE d.schedule_name = s.schedule_name AND d.status <> 'ACTIVE' AND s.declared AND s.schedule_name NOT IN ('pulse', 'purge');
