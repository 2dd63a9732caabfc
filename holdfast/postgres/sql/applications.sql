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
-- Adds the applications of users that DBOS's own table of versions names, and those whose role was made before `ops`
-- (postgres/application.sql). The schema, which the role owns, says that the role belongs to this database. Those that
-- `app remove` locked out stay away.
INSERT INTO ops.applications AS a (name, kind, added_by, database_role)
SELECT known.name, 'user', 'migrate', max(known.role) FROM (
    SELECT v.application_name AS name, NULL AS role FROM dbos.application_versions v
    UNION ALL
    SELECT n.nspname::text, r.rolname::text FROM pg_roles r JOIN pg_namespace n ON n.nspowner = r.oid
    WHERE r.rolname = 'holdfast_app_' || n.nspname) AS known
WHERE known.name IS NOT NULL
  AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = 'holdfast_app_' || known.name AND NOT r.rolcanlogin)
GROUP BY known.name
ON CONFLICT (name) DO UPDATE SET database_role = excluded.database_role
WHERE a.kind = 'user' AND a.database_role IS NULL AND excluded.database_role IS NOT NULL

-- name: remove_application
DELETE FROM ops.applications WHERE name = %(name)s AND kind = 'user' RETURNING name

-- name: database_state
-- Returns what a database has of DBOS and of Holdfast, and what the current role may do. The triggers in DBOS's
-- schema say to which one `ops` belongs.
SELECT current_user AS role, current_database() AS database,
       has_database_privilege(current_database(), 'CREATE') AS may_create,
       n.oid IS NOT NULL AS schema_exists, m.oid IS NOT NULL AS has_dbos, m.owner AS dbos_owner,
       coalesce(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(m.oid, 'SELECT'), false) AS reads_dbos,
       coalesce(pg_has_role(m.relowner, 'USAGE'), false) AS owns_dbos,
       EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind = 'r') AS tables,
       o.oid IS NOT NULL AS has_ops, coalesce(pg_has_role(o.nspowner, 'USAGE'), false) AS owns_ops,
       EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = o.oid AND c.relname = 'migrations') AS holdfasts_ops,
       EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = o.oid AND c.relkind = 'r') AS ops_tables,
       (SELECT s.nspname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        JOIN pg_namespace s ON s.oid = c.relnamespace WHERE t.tgname = 'holdfast_claimed' LIMIT 1) AS protected_schema
FROM (SELECT %(schema)s::text AS name) AS given
LEFT JOIN pg_namespace n ON n.nspname = given.name
LEFT JOIN LATERAL (SELECT c.oid, c.relowner, c.relowner::regrole::text AS owner FROM pg_class c
                   WHERE c.relnamespace = n.oid AND c.relname = 'dbos_migrations') AS m ON true
LEFT JOIN pg_namespace o ON o.nspname = 'ops'

-- name: ops_migrations
SELECT ARRAY(SELECT name FROM ops.migrations) AS names

-- name: attached_roles
-- Returns the roles with the rights of an attached application, the owner of the tables included, but not this role.
SELECT pg_get_userbyid(a.grantee)::text AS role
FROM pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) AS a
WHERE c.oid = 'ops.executors'::regclass AND a.privilege_type = 'INSERT' AND a.grantee <> 0
  AND pg_get_userbyid(a.grantee) <> ALL (array_append(%(stack)s, current_user::text))
ORDER BY 1

-- name: applications_at_work
-- Returns the applications with what each has: live executors (an executor that is alive holds its lock) and
-- unfinished workflows. For psql: no parameters.
SELECT coalesce(json_agg(row_to_json(r)), '[]') AS applications FROM (
    SELECT a.name AS application, a.kind, a.added_by, a.added_at, a.database_role, a.attached_at, a.dbos_version,
           (SELECT count(*) FROM ops.executors e JOIN pg_locks l ON l.locktype = 'advisory' AND l.classid = 7031
                AND l.objid = e.lock_key::oid AND l.objsubid = 2 AND l.granted
                AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            WHERE e.application = a.name AND e.state IN ('live', 'draining')) AS live_executors,
           (SELECT count(*) FROM dbos.workflow_status w
            WHERE w.application_name = a.name AND w.status IN ('ENQUEUED', 'PENDING', 'DELAYED')) AS unfinished_workflows
    FROM ops.applications a ORDER BY a.kind, a.name) AS r
