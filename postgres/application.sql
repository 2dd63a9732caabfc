-- The role of one attached application, for psql connected to Holdfast's database, as the role that ran roles.sql.
-- Repeatable.
-- Variables: name (the application's), verifier (a SCRAM verifier: the password never reaches the server).
-- The role may what the group holdfast_apps may (`migrate` grants it), on its own application's rows: the policies
-- read the application from the role's name. The schema is for the application's own tables.
\set ON_ERROR_STOP on
BEGIN;
SET LOCAL client_min_messages = warning;
SELECT 'holdfast_app_' || :'name' AS role \gset
SELECT format('CREATE ROLE %I', :'role') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
-- At most 34 of one process: DBOS's pool of 20, which opens them as needed, and 14 of Holdfast and DBOS's listener.
ALTER ROLE :"role" LOGIN INHERIT NOCREATEDB NOCREATEROLE CONNECTION LIMIT 100 PASSWORD :'verifier';
SELECT rolsuper AS is_superuser, has_parameter_privilege(current_user, 'temp_file_limit', 'SET') AS limits_files
FROM pg_roles WHERE rolname = current_user \gset
\if :is_superuser
    ALTER ROLE :"role" NOSUPERUSER NOREPLICATION NOBYPASSRLS;
\else
    -- The schema is made for the role.
    GRANT :"role" TO CURRENT_USER WITH INHERIT FALSE, SET TRUE;
\endif
\if :limits_files
    ALTER ROLE :"role" SET temp_file_limit TO '2GB';
\endif
-- Its own tables first; DBOS names its schema.
ALTER ROLE :"role" SET search_path TO :"name";
GRANT holdfast_apps TO :"role" WITH SET FALSE;
-- A function of the owner ends the sessions of a dead executor.
GRANT :"role" TO holdfast_owner;
CREATE SCHEMA IF NOT EXISTS :"name" AUTHORIZATION :"role";
-- At a stack's first start this runs before `migrate`, which then adds the application.
SELECT to_regclass('ops.applications') IS NOT NULL AS migrated \gset
\if :migrated
    SET LOCAL ROLE holdfast_owner;
    INSERT INTO ops.applications AS a (name, kind, added_by, database_role) VALUES (:'name', 'user', 'app add', :'role')
    ON CONFLICT (name) DO UPDATE SET database_role = excluded.database_role;
\endif
COMMIT;
