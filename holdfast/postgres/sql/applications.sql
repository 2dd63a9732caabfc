-- The applications whose work this database holds (ops.applications).

-- name: applications
-- Returns all applications: the stack's first, then the users', by name.
SELECT name, kind, added_by, added_at, database_role, attached_at, dbos_version
FROM ops.applications ORDER BY kind, name

-- name: add_application
-- Adds an application, or stores the role of one that was known without it. An application keeps its kind.
INSERT INTO ops.applications AS a (name, kind, added_by, database_role)
VALUES (%(name)s, %(kind)s, %(added_by)s, %(database_role)s)
ON CONFLICT (name) DO UPDATE SET database_role = coalesce(excluded.database_role, a.database_role)
RETURNING name, kind, database_role

-- name: note_attached
-- Records the launch of an attached process. The first one adds its application.
INSERT INTO ops.applications AS a (name, kind, added_by, attached_at, dbos_version)
VALUES (%(name)s, 'user', 'attach', clock_timestamp(), %(dbos_version)s)
ON CONFLICT (name) DO UPDATE SET attached_at = excluded.attached_at, dbos_version = excluded.dbos_version
RETURNING name, kind

-- name: add_known_applications
-- Adds the applications of users that DBOS's own table of versions names.
INSERT INTO ops.applications (name, kind, added_by)
SELECT DISTINCT v.application_name, 'user', 'migrate' FROM dbos.application_versions v
WHERE v.application_name IS NOT NULL
ON CONFLICT (name) DO NOTHING

-- name: remove_application
DELETE FROM ops.applications WHERE name = %(name)s AND kind = 'user' RETURNING name
