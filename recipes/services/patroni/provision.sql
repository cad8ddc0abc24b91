-- Roles, users, databases. Run at each boot on each member; idempotent.
-- Terse: an error must not quote the statement, which may hold a password.
\set VERBOSITY terse

-- After a restart the leader is a standby for a moment: wait until this instance leads or streams.
DO $$
BEGIN
  FOR attempt IN 1..300 LOOP
    EXIT WHEN NOT pg_is_in_recovery() OR EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming');
    IF attempt = 300 THEN
      RAISE EXCEPTION 'neither promoted nor streaming within 30 s';
    END IF;
    PERFORM pg_sleep(0.1);
  END LOOP;
END $$;
-- A replica gets everything from its leader.
SELECT pg_is_in_recovery() AS standby \gset
\if :standby
\quit
\endif

{% set default_roles = ["dbrole_readonly", "dbrole_offline", "dbrole_readwrite", "dbrole_admin"] %}
{% set users = cluster.users %}
BEGIN;
-- Two members never provision at once, but a boot may overlap with a run by hand.
SELECT pg_advisory_xact_lock(hashtext('farrow-provision')) \g /dev/null

{% for role in default_roles %}
SELECT 'CREATE ROLE {{ role }} NOLOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{{ role }}') \gexec
{% endfor %}
{% for name in ["replicator", "dbuser_dba", "dbuser_monitor"] + users | map(attribute="name") | list %}
SELECT format('CREATE ROLE %I LOGIN', n) FROM (VALUES ({{ name | sql_text }})) AS v (n) WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = n) \gexec
{% endfor %}

GRANT dbrole_readonly TO dbrole_readwrite, replicator, dbuser_monitor;
GRANT pg_monitor TO dbrole_admin, replicator, dbuser_monitor;
GRANT dbrole_readwrite TO dbrole_admin;
GRANT dbrole_admin TO dbuser_dba;

ALTER ROLE replicator LOGIN REPLICATION PASSWORD {{ password("replicator") | sql_text }};
-- What pg_rewind needs.
GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean),
  pg_read_binary_file(text), pg_read_binary_file(text, bigint, bigint, boolean) TO replicator;
ALTER ROLE dbuser_dba LOGIN SUPERUSER PASSWORD {{ password("dbuser_dba") | sql_text }};
ALTER ROLE dbuser_monitor LOGIN CONNECTION LIMIT 16 PASSWORD {{ password("dbuser_monitor") | sql_text }};
ALTER ROLE dbuser_monitor SET search_path = monitor, public;
{% for user in users %}
ALTER ROLE {{ user.name | sql_id }} LOGIN {{ "SUPERUSER" if user.superuser else "NOSUPERUSER" }} PASSWORD {{ password(user.name) | sql_text }};
{% if user.comment %}
COMMENT ON ROLE {{ user.name | sql_id }} IS {{ user.comment | sql_text }};
{% endif %}
{% for role in user.roles %}
GRANT {{ role | sql_id }} TO {{ user.name | sql_id }};
{% endfor %}
{% endfor %}
COMMIT;

{# template1 first: databases made later start as copies of it. #}
{% set database = none %}
\connect template1
{% include "database.sql" %}
\connect postgres
{% include "database.sql" %}
{% for database in cluster.databases %}

SELECT format('CREATE DATABASE %I OWNER %I ENCODING ''UTF8'' TEMPLATE template1', n, {{ database.owner | sql_text }}) FROM (VALUES ({{ database.name | sql_text }})) AS v (n) WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = n) \gexec
ALTER DATABASE {{ database.name | sql_id }} OWNER TO {{ database.owner | sql_id }};
GRANT CREATE ON DATABASE {{ database.name | sql_id }} TO dbrole_admin;
{% if database.comment %}
COMMENT ON DATABASE {{ database.name | sql_id }} IS {{ database.comment | sql_text }};
{% endif %}
\connect {{ database.name | sql_id }}
{% include "database.sql" %}
{% endfor %}
