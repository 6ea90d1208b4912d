//! The settings of every session, as SQL: none of the database or the role changes the meaning of a
//! statement.

/// Sets only settings that the server knows, so that one statement serves all versions.
pub(super) const SETTINGS: &str = "
    SELECT pg_catalog.set_config(s.name, ours.value, false)
      FROM pg_catalog.pg_settings AS s
      JOIN (VALUES ('default_transaction_isolation', 'read committed'),
                   ('default_transaction_read_only', 'off'),
                   ('default_transaction_deferrable', 'off'),
                   ('search_path', ''),
                   ('row_security', 'off'),
                   ('synchronous_commit', 'on'),
                   ('statement_timeout', '0'),
                   ('lock_timeout', '0'),
                   ('idle_in_transaction_session_timeout', '0'),
                   ('idle_session_timeout', '0'),
                   ('transaction_timeout', '0'),
                   ('standard_conforming_strings', 'on'),
                   ('quote_all_identifiers', 'off'),
                   ('array_nulls', 'on'),
                   ('transform_null_equals', 'off'),
                   ('client_min_messages', 'warning'),
                   ('bytea_output', 'hex'),
                   ('datestyle', 'ISO'),
                   ('intervalstyle', 'postgres'),
                   ('client_encoding', 'UTF8'),
                   ('extra_float_digits', '3'),
                   ('plan_cache_mode', 'force_custom_plan')
           ) AS ours (name, value)
        ON pg_catalog.lower(s.name) OPERATOR(pg_catalog.=) ours.name";

/// The role's own `search_path`, with `pg_catalog` first if the path names it. Postgres searches it
/// first where the path does not name it.
pub(crate) const ROLES_SEARCH_PATH: &str = "
    RESET search_path;
    SELECT pg_catalog.set_config('search_path', pg_catalog.concat_ws(', ', 'pg_catalog',
               pg_catalog.current_setting('search_path')), false)
     WHERE 'pg_catalog'::pg_catalog.name
           OPERATOR(pg_catalog.=) ANY (pg_catalog.current_schemas(false))";
