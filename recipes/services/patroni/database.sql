BEGIN;
CREATE SCHEMA IF NOT EXISTS monitor;
GRANT USAGE ON SCHEMA monitor TO pg_monitor;
CREATE EXTENSION IF NOT EXISTS pg_stat_statements SCHEMA monitor;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO dbrole_readonly, dbrole_offline;
GRANT CREATE ON SCHEMA public TO dbrole_admin;
{# Default privileges belong to the role that creates an object, not to the roles it is a member of:
   owners and administrators are therefore named one by one. #}
{% set creators = (["postgres", "dbuser_dba", "dbrole_admin"] + ([database.owner] if database else []) + users | selectattr("roles") | map(attribute="name") | list) | unique %}
{% set for_roles %}{% for role in creators %}{{ ", " if not loop.first }}{{ role | sql_id }}{% endfor %}{% endset %}
ALTER DEFAULT PRIVILEGES FOR ROLE {{ for_roles }} GRANT USAGE ON SCHEMAS TO dbrole_readonly, dbrole_offline;
ALTER DEFAULT PRIVILEGES FOR ROLE {{ for_roles }} GRANT SELECT ON TABLES TO dbrole_readonly, dbrole_offline;
ALTER DEFAULT PRIVILEGES FOR ROLE {{ for_roles }} GRANT SELECT ON SEQUENCES TO dbrole_readonly, dbrole_offline;
ALTER DEFAULT PRIVILEGES FOR ROLE {{ for_roles }} GRANT INSERT, UPDATE, DELETE ON TABLES TO dbrole_readwrite;
ALTER DEFAULT PRIVILEGES FOR ROLE {{ for_roles }} GRANT USAGE, UPDATE ON SEQUENCES TO dbrole_readwrite;
ALTER DEFAULT PRIVILEGES FOR ROLE {{ for_roles }} GRANT TRUNCATE, REFERENCES, TRIGGER ON TABLES TO dbrole_admin;
ALTER DEFAULT PRIVILEGES FOR ROLE {{ for_roles }} GRANT CREATE ON SCHEMAS TO dbrole_admin;
{% if database %}
{% for schema in database.schemas %}
CREATE SCHEMA IF NOT EXISTS {{ schema | sql_id }} AUTHORIZATION {{ database.owner | sql_id }};
GRANT USAGE ON SCHEMA {{ schema | sql_id }} TO dbrole_readonly, dbrole_offline;
GRANT CREATE ON SCHEMA {{ schema | sql_id }} TO dbrole_admin;
{% endfor %}
{% for extension in database.extensions %}
CREATE EXTENSION IF NOT EXISTS {{ extension | sql_id }} CASCADE;
{% endfor %}
{% endif %}
COMMIT;
