-- What the platform consists of, in the database "meta". Written by farrow-bootstrap when members change; run as often as one likes.
BEGIN;
SELECT pg_advisory_xact_lock(hashtext('farrow-inventory')) \g /dev/null
CREATE SCHEMA IF NOT EXISTS pigsty;
COMMENT ON SCHEMA pigsty IS 'What the platform consists of; kept by farrow-bootstrap, not to be changed by hand';
GRANT USAGE ON SCHEMA pigsty TO dbrole_readonly, dbrole_offline;

CREATE TABLE IF NOT EXISTS pigsty.cluster (
  name text PRIMARY KEY,
  vip inet,
  autoscale boolean NOT NULL,
  leader text,
  updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS pigsty.node (
  name text PRIMARY KEY,
  address inet NOT NULL,
  role text NOT NULL,
  image text,
  updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN pigsty.node.image IS 'dm-verity root hash of the root that the machine runs';
CREATE TABLE IF NOT EXISTS pigsty.instance (
  name text PRIMARY KEY,
  cluster text NOT NULL,
  node text NOT NULL,
  seq integer,
  address inet NOT NULL,
  declared_role text,
  role text,
  state text,
  timeline bigint,
  live boolean NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN pigsty.instance.seq IS 'none for a member that joined without being declared';
CREATE TABLE IF NOT EXISTS pigsty.service (
  node text,
  name text,
  unit text,
  ports integer[] NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (node, name)
);
GRANT SELECT ON ALL TABLES IN SCHEMA pigsty TO dbrole_readonly, dbrole_offline;

CREATE TEMPORARY TABLE document ON COMMIT DROP AS SELECT __DOCUMENT__::jsonb AS d;

-- For each table: rows that are gone, then rows that are new or differ.
DELETE FROM pigsty.cluster t WHERE NOT EXISTS (SELECT FROM document, jsonb_to_recordset(d->'cluster') AS r (name text) WHERE r.name = t.name);
INSERT INTO pigsty.cluster AS t SELECT r.*, now() FROM document, jsonb_to_recordset(d->'cluster') AS r (name text, vip inet, autoscale boolean, leader text)
ON CONFLICT (name) DO UPDATE SET vip = excluded.vip, autoscale = excluded.autoscale, leader = excluded.leader, updated_at = now()
WHERE (t.vip, t.autoscale, t.leader) IS DISTINCT FROM (excluded.vip, excluded.autoscale, excluded.leader);

DELETE FROM pigsty.node t WHERE NOT EXISTS (SELECT FROM document, jsonb_to_recordset(d->'node') AS r (name text) WHERE r.name = t.name);
-- A machine that is off keeps the image that it was last seen with.
INSERT INTO pigsty.node AS t SELECT r.*, now() FROM document, jsonb_to_recordset(d->'node') AS r (name text, address inet, role text, image text)
ON CONFLICT (name) DO UPDATE SET address = excluded.address, role = excluded.role, image = coalesce(excluded.image, t.image), updated_at = now()
WHERE (t.address, t.role, t.image) IS DISTINCT FROM (excluded.address, excluded.role, coalesce(excluded.image, t.image));

DELETE FROM pigsty.instance t WHERE NOT EXISTS (SELECT FROM document, jsonb_to_recordset(d->'instance') AS r (name text) WHERE r.name = t.name);
INSERT INTO pigsty.instance AS t SELECT r.*, now() FROM document, jsonb_to_recordset(d->'instance') AS r (name text, cluster text, node text, seq integer, address inet, declared_role text, role text, state text, timeline bigint, live boolean)
ON CONFLICT (name) DO UPDATE SET cluster = excluded.cluster, node = excluded.node, seq = excluded.seq, address = excluded.address,
  declared_role = excluded.declared_role, role = excluded.role, state = excluded.state, timeline = excluded.timeline, live = excluded.live, updated_at = now()
WHERE (t.cluster, t.node, t.seq, t.address, t.declared_role, t.role, t.state, t.timeline, t.live)
  IS DISTINCT FROM (excluded.cluster, excluded.node, excluded.seq, excluded.address, excluded.declared_role, excluded.role, excluded.state, excluded.timeline, excluded.live);

DELETE FROM pigsty.service t WHERE NOT EXISTS (SELECT FROM document, jsonb_to_recordset(d->'service') AS r (node text, name text) WHERE (r.node, r.name) = (t.node, t.name));
INSERT INTO pigsty.service AS t SELECT r.*, now() FROM document, jsonb_to_recordset(d->'service') AS r (node text, name text, unit text, ports integer[])
ON CONFLICT (node, name) DO UPDATE SET unit = excluded.unit, ports = excluded.ports, updated_at = now()
WHERE (t.unit, t.ports) IS DISTINCT FROM (excluded.unit, excluded.ports);
COMMIT;
