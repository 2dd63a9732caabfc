-- The DBOS applications whose work this database holds: those of the stack, and applications of users. `migrate`,
-- `holdfast app add` and the first launch of an attached process write it; page, CLI and metrics read it.
CREATE TABLE ops.applications (
    name text PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('stack', 'user')),
    added_by text NOT NULL CHECK (added_by IN ('migrate', 'app add', 'attach')),
    added_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The login role that `holdfast app add` made; NULL where the application brings a role.
    database_role text,
    -- The last launch of an attached process, and its DBOS; NULL where none was ever attached.
    attached_at timestamptz,
    dbos_version text
);
