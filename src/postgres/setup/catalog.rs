//! The statements that read what is there, in the order of the fields that they fill.

pub(super) const SERVER: &str = "
    SELECT current_user::text, r.rolsuper, r.rolcreaterole, pg_catalog.current_database()::text,
           pg_catalog.pg_get_userbyid(d.datdba)::text,
           pg_catalog.has_database_privilege(d.oid, 'CREATE'),
           pg_catalog.current_setting('server_version_num')::int4
      FROM pg_catalog.pg_roles AS r, pg_catalog.pg_database AS d
     WHERE r.rolname = current_user AND d.datname = pg_catalog.current_database()";

pub(super) const SCHEMA: &str = "
    SELECT pg_catalog.pg_get_userbyid(n.nspowner)::text,
           pg_catalog.pg_has_role(n.nspowner, 'USAGE'),
           pg_catalog.has_schema_privilege(n.oid, 'CREATE')
       AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
      FROM pg_catalog.pg_namespace AS n WHERE n.nspname = $1";

pub(super) const RELATION: &str = "
    SELECT c.relkind::text, pg_catalog.pg_get_userbyid(c.relowner)::text,
           pg_catalog.pg_has_role(c.relowner, 'USAGE')
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = $1 AND c.relname = $2";

pub(super) const LEAVES: &str = "
    SELECT c.oid, n.nspname::text, c.relname::text
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.oid = ANY ($1) AND c.relkind = 'r'
     ORDER BY 2, 3";

pub(super) const INDEXES: &str = "
    SELECT i.indrelid, n.nspname::text, c.relname::text, i.indisvalid AND i.indisready,
           a.attname::text, pg_catalog.pg_get_expr(i.indpred, i.indrelid), m.amname::text,
           (SELECT pg_catalog.min(p.pid) FROM pg_catalog.pg_stat_progress_create_index AS p
             WHERE p.index_relid = i.indexrelid)
      FROM pg_catalog.pg_index AS i
      JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
      JOIN pg_catalog.pg_am AS m ON m.oid = c.relam
      LEFT JOIN pg_catalog.pg_attribute AS a
        ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
     WHERE i.indrelid = ANY ($1)
     ORDER BY c.relname";

pub(super) const NAMES: &str = "
    SELECT n.nspname::text, c.relname::text
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.relname ~ '^idx_.*_unpublished'";

pub(super) const CONSTRAINTS: &str = "
    SELECT c.conname::text FROM pg_catalog.pg_constraint AS c WHERE c.conrelid = $1";

pub(super) const FUNCTIONS: &str = "
    SELECT p.proname::text, pg_catalog.oidvectortypes(p.proargtypes), p.prosrc,
           pg_catalog.pg_has_role(p.proowner, 'USAGE'),
           pg_catalog.pg_get_userbyid(p.proowner)::text
      FROM pg_catalog.pg_proc AS p
      JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
     WHERE n.nspname = $1 AND (p.proname = ANY ($2) OR pg_catalog.strpos(p.prosrc, $3) > 0)
     ORDER BY 1, 2";

/// `schemas` counts those of FOR TABLES IN SCHEMA, which Postgres has from 15 on.
pub(super) fn publication_sql(schemas: &str) -> String {
    format!(
        "SELECT pg_catalog.pg_get_userbyid(p.pubowner)::text,
                pg_catalog.pg_has_role(p.pubowner, 'USAGE'),
                NOT p.puballtables AND {schemas}
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication_rel AS r
                             WHERE r.prpubid = p.oid),
                p.pubviaroot
           FROM pg_catalog.pg_publication AS p WHERE p.pubname = $1"
    )
}

pub(super) const NO_SCHEMA: &str =
    "NOT EXISTS (SELECT FROM pg_catalog.pg_publication_namespace AS s
                                      WHERE s.pnpubid = p.oid)";

/// Publications whose names begin as outboxd's do.
pub(super) const PUBLISHERS: &str = "
    SELECT p.pubname::text FROM pg_catalog.pg_publication AS p
      JOIN pg_catalog.pg_publication_rel AS r ON r.prpubid = p.oid
     WHERE r.prrelid = $1 AND p.pubname <> $2 AND p.pubname ~ '^outboxd'
       AND p.pubinsert AND NOT p.pubupdate AND NOT p.pubdelete
     ORDER BY 1";

pub(super) const ROLE: &str = "
    SELECT r.rolcanlogin,
           r.rolsuper OR r.rolreplication
        OR coalesce((SELECT pg_catalog.pg_has_role(r.oid, p.oid, 'USAGE')
                       FROM pg_catalog.pg_roles AS p WHERE p.rolname = 'rds_replication'), false),
           coalesce(pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE'), false),
           coalesce(pg_catalog.has_table_privilege(r.oid, t.oid, 'SELECT'), false),
           ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
                  WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
                    AND pg_catalog.has_column_privilege(r.oid, t.oid, a.attnum, 'UPDATE')),
           coalesce(pg_catalog.has_table_privilege(r.oid, t.oid, 'DELETE'), false),
           coalesce((SELECT pg_catalog.bool_and(
                                pg_catalog.has_table_privilege(r.oid, l.oid, v.name))
                       FROM (VALUES ('SELECT'), ('INSERT'), ('UPDATE')) AS v (name)), false),
           coalesce((SELECT pg_catalog.bool_and(
                                pg_catalog.has_table_privilege(r.oid, s.oid, v.name))
                       FROM (VALUES ('SELECT'), ('INSERT'), ('UPDATE')) AS v (name)), false),
           coalesce(pg_catalog.has_table_privilege(r.oid, l.oid, 'DELETE'), false)
      FROM pg_catalog.pg_roles AS r
      LEFT JOIN pg_catalog.pg_namespace AS n ON n.nspname = $2
      LEFT JOIN pg_catalog.pg_class AS t ON t.relnamespace = n.oid AND t.relname = $3
      LEFT JOIN pg_catalog.pg_class AS l ON l.relnamespace = n.oid AND l.relname = $4
      LEFT JOIN pg_catalog.pg_class AS s ON s.relnamespace = n.oid AND s.relname = $5
     WHERE r.rolname = $1";

pub(super) const PROVIDER: &str = "
    SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'rds_replication')";
