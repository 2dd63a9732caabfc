-- Roles and the database, for psql connected to the database postgres, as a superuser or as a role with CREATEDB
-- and CREATEROLE, as managed services give it. Repeatable, by the same role.
-- HOLDFAST_ROLE_SECRETS names a directory with ROLE.scram files: verifiers, so that no password ever
-- reaches the server or its log. `migrate` grants the rights on tables.
\set ON_ERROR_STOP on
\set migrator `cat "$HOLDFAST_ROLE_SECRETS/holdfast_migrator.scram"`
\set api `cat "$HOLDFAST_ROLE_SECRETS/holdfast_api.scram"`
\set worker `cat "$HOLDFAST_ROLE_SECRETS/holdfast_worker.scram"`
\set metrics `cat "$HOLDFAST_ROLE_SECRETS/holdfast_metrics.scram"`

SELECT rolsuper AS is_superuser, has_parameter_privilege(current_user, 'temp_file_limit', 'SET') AS limits_files
FROM pg_roles WHERE rolname = current_user \gset

SELECT format('CREATE ROLE %I NOLOGIN', name)
FROM unnest(ARRAY['holdfast_owner', 'holdfast_migrator', 'holdfast_api', 'holdfast_worker', 'holdfast_metrics',
                  'holdfast_apps']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec

\if :is_superuser
\else
    -- A role may administer the roles that it made, no more. The database is given to the owner and changed as it.
    GRANT holdfast_owner TO CURRENT_USER WITH INHERIT TRUE, SET TRUE;
\endif
-- The owner cannot log in; the migrator acts as the owner.
ALTER ROLE holdfast_owner NOLOGIN INHERIT;
ALTER ROLE holdfast_migrator LOGIN CONNECTION LIMIT 10 PASSWORD :'migrator';
GRANT holdfast_owner TO holdfast_migrator;
ALTER ROLE holdfast_migrator SET role TO holdfast_owner;
-- A function of the owner ends the sessions of a dead executor of either role.
GRANT holdfast_api, holdfast_worker TO holdfast_owner;
-- A change of a table that waits for its lock makes all later statements wait too.
ALTER ROLE holdfast_migrator SET lock_timeout TO '60s';

-- One API and its restarting twin, up to eight workers: holdfast/postgres/budget.py counts what each opens.
ALTER ROLE holdfast_api LOGIN CONNECTION LIMIT 70 PASSWORD :'api';
ALTER ROLE holdfast_worker LOGIN CONNECTION LIMIT 208 PASSWORD :'worker';
ALTER ROLE holdfast_metrics LOGIN CONNECTION LIMIT 5 PASSWORD :'metrics';
-- The group of users' applications: application.sql makes a role for each, which may use what this group may.
ALTER ROLE holdfast_apps NOLOGIN;

-- API and workers limit their own statements. DBOS's statements have no limit on purpose: DBOS takes a cancelled
-- statement for a failure of the workflow, while a lost connection only makes it wait.
ALTER ROLE holdfast_metrics SET default_transaction_read_only TO on;
ALTER ROLE holdfast_metrics SET statement_timeout TO '5s';
ALTER ROLE holdfast_metrics SET idle_in_transaction_session_timeout TO '5s';

-- Limits the temporary files of a query, which could fill the disk; only a superuser may set it.
\if :limits_files
    ALTER ROLE holdfast_api SET temp_file_limit TO '2GB';
    ALTER ROLE holdfast_worker SET temp_file_limit TO '2GB';
    ALTER ROLE holdfast_metrics SET temp_file_limit TO '100MB';
\endif

SELECT 'CREATE DATABASE holdfast OWNER holdfast_owner'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'holdfast')
\gexec
ALTER DATABASE holdfast OWNER TO holdfast_owner;

REVOKE ALL ON DATABASE holdfast FROM PUBLIC;
\if :is_superuser
    -- Only `dbos migrate` uses the database postgres.
    REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;
    GRANT CONNECT ON DATABASE postgres TO holdfast_migrator, holdfast_owner;
\endif
GRANT CONNECT ON DATABASE holdfast
    TO holdfast_migrator, holdfast_api, holdfast_worker, holdfast_metrics, holdfast_apps;

\connect holdfast
REVOKE ALL ON SCHEMA public FROM PUBLIC;
