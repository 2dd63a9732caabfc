-- Ends the access of an attached application, for psql as superuser, connected to Holdfast's database. Repeatable.
-- The role keeps its schema with the application's own tables, and can no longer log in: `app add` lets it in again.
\set ON_ERROR_STOP on
SELECT 'holdfast_app_' || :'name' AS role \gset
SELECT format('ALTER ROLE %I NOLOGIN PASSWORD NULL', :'role') FROM pg_roles WHERE rolname = :'role' \gexec
DELETE FROM ops.applications WHERE name = :'name' AND kind = 'user';
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = :'role';
