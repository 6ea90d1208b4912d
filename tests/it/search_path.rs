//! A `search_path` of the role with names that hide those of `pg_catalog` changes nothing: every
//! statement means what it says, and the triggers of the table's owner still find their names.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::support::fixture::Fixture;
use crate::support::kafka::{self, ConsumedRecord};
use crate::support::outboxd::{Outboxd, command};
use crate::support::postgres::{self, MAJORS};

const LIMIT: Duration = Duration::from_secs(60);

/// Functions, operators and types that fail, by the names and arguments of those of `pg_catalog`,
/// and some whose arguments fit better than those of `pg_catalog`.
const HOSTILE: &str = "
    CREATE SCHEMA hostile;
    CREATE FUNCTION hostile.fail(a text) RETURNS text LANGUAGE plpgsql AS
        $$BEGIN RAISE EXCEPTION 'hijacked: %', a USING ERRCODE = 'HV000'; END$$;
    DO $do$
    DECLARE
        one record;
    BEGIN
        FOR one IN
            SELECT p.oid::regprocedure AS name, p.proname, p.proretset,
                   pg_catalog.format_type(p.prorettype, NULL) AS result,
                   pg_catalog.pg_get_function_identity_arguments(p.oid) AS arguments
              FROM pg_catalog.pg_proc AS p
             WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f'
               AND p.proname IN ('sha256', 'left', 'encode', 'isfinite', 'octet_length',
                   'jsonb_array_length', 'hashtextextended', 'regexp_replace', 'now',
                   'pg_xact_status', 'pg_column_size', 'to_regclass', 'timezone', 'substr',
                   'convert_from', 'convert_to', 'jsonb_typeof', 'coalesce', 'length')
               AND p.provariadic = 0
               AND NOT (p.proargtypes::oid[] && ARRAY['anyelement'::regtype::oid,
                        'anyarray'::regtype::oid, '\"any\"'::regtype::oid])
        LOOP
            EXECUTE pg_catalog.format(
                'CREATE FUNCTION hostile.%I(%s) RETURNS %s%s LANGUAGE plpgsql AS '
                '$$BEGIN PERFORM hostile.fail(%L); RETURN%s; END$$',
                one.proname, one.arguments,
                CASE WHEN one.proretset THEN 'SETOF ' ELSE '' END, one.result, one.name,
                CASE WHEN one.proretset THEN '' ELSE ' NULL' END);
        END LOOP;
        FOR one IN
            SELECT o.oprname, pg_catalog.format_type(o.oprleft, NULL) AS a,
                   pg_catalog.format_type(o.oprright, NULL) AS b,
                   pg_catalog.format_type(o.oprresult, NULL) AS result,
                   pg_catalog.row_number() OVER () AS n
              FROM pg_catalog.pg_operator AS o
             WHERE o.oprname IN ('=', '<', '<=', '>', '>=', '<>', '+', '-', '*', '||')
               AND o.oprleft::regtype::text IN ('bigint', 'integer', 'smallint', 'text', 'oid',
                   'jsonb', 'pg_lsn', 'timestamp without time zone', 'timestamp with time zone',
                   'boolean', 'bytea', 'name')
               AND o.oprright::regtype::text IN ('bigint', 'integer', 'smallint', 'text', 'oid',
                   'jsonb', 'pg_lsn', 'timestamp without time zone', 'timestamp with time zone',
                   'boolean', 'bytea', 'interval', 'name')
        LOOP
            EXECUTE pg_catalog.format(
                'CREATE FUNCTION hostile.op%s(%s, %s) RETURNS %s LANGUAGE plpgsql AS '
                '$$BEGIN PERFORM hostile.fail(%L); RETURN NULL; END$$',
                one.n, one.a, one.b, one.result, one.oprname);
            EXECUTE pg_catalog.format(
                'CREATE OPERATOR hostile.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = hostile.op%s)',
                one.oprname, one.a, one.b, one.n);
        END LOOP;
    END
    $do$;
    CREATE FUNCTION hostile.format(text, bigint) RETURNS text LANGUAGE sql AS
        $$SELECT hostile.fail('format')$$;
    CREATE FUNCTION hostile.format(text, text) RETURNS text LANGUAGE sql AS
        $$SELECT hostile.fail('format')$$;
    CREATE FUNCTION hostile.jsonb_build_object(text, timestamptz, text, text, text, text, text,
            integer) RETURNS jsonb LANGUAGE sql AS
        $$SELECT hostile.fail('jsonb_build_object')::jsonb$$;
    CREATE FUNCTION hostile.jsonb_build_array(jsonb) RETURNS jsonb LANGUAGE sql AS
        $$SELECT hostile.fail('jsonb_build_array')::jsonb$$;
    CREATE FUNCTION hostile.unnest(bigint[]) RETURNS SETOF bigint LANGUAGE sql AS
        $$SELECT hostile.fail('unnest')::bigint$$;
    CREATE FUNCTION hostile.unnest(text[]) RETURNS SETOF text LANGUAGE sql AS
        $$SELECT hostile.fail('unnest')$$;
    CREATE DOMAIN hostile.text AS pg_catalog.text CHECK (false);
    CREATE DOMAIN hostile.jsonb AS pg_catalog.jsonb CHECK (false);
    CREATE DOMAIN hostile.pg_lsn AS pg_catalog.pg_lsn CHECK (false);
    CREATE DOMAIN hostile.oid AS pg_catalog.oid CHECK (false);
    GRANT USAGE ON SCHEMA hostile TO PUBLIC;";

/// The triggers of the owner: one name is only in the role's `search_path`.
const TRIGGERS: &str = "
    CREATE SCHEMA app;
    CREATE TABLE app.audit_log (event bigint);
    CREATE FUNCTION app.note() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN INSERT INTO audit_log SELECT old.id; RETURN NULL; END$$;
    CREATE TRIGGER note AFTER UPDATE ON outbox.outbox FOR EACH ROW EXECUTE FUNCTION app.note();
    GRANT USAGE ON SCHEMA app TO PUBLIC;
    GRANT ALL ON app.audit_log TO PUBLIC;";

#[tokio::test(flavor = "multi_thread")]
async fn names_that_hide_those_of_the_catalog_are_never_used() -> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let (database, topic) = (&fixture.database, &fixture.topic);
        let role = format!("{}_publisher", database.name);
        let output = command(&fixture.settings, &["init", "--role", &role], LIMIT).await?;
        ensure!(output.status.success(), "{output:?}");
        let session = database.connect().await?;
        session.batch_execute(HOSTILE).await.context("hostile")?;
        session.batch_execute(TRIGGERS).await?;
        // Anything that the key is made of, read from the table as the stream prints it.
        let column = "ALTER TABLE outbox.outbox ADD region inet DEFAULT '10.0.0.1'";
        session.batch_execute(column).await?;
        let path = format!(
            "ALTER ROLE {role} IN DATABASE {} SET search_path = hostile, app, pg_catalog",
            database.name
        );
        session.batch_execute(&path).await?;
        let settings = fixture
            .settings
            .clone()
            .set("DATABASE_URL", database.url_as(&role))
            .set("OUTBOX_KEY", "column:region")
            .set("OUTBOX_ON_POISON", "park-key")
            .set("OUTBOX_AUDIT_INTERVAL", "1s");
        database.insert("backlog", topic, "{}").await?;
        let mut outboxd = Outboxd::spawn(&settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        database.insert("stream", topic, "{}").await?;
        let dead = database.insert("dead", "no such topic", "{}").await?;
        let open = "SELECT count(*) FROM outbox.dead_letter WHERE state = 'dead'";
        outboxd.wait_for_value(&session, open, 1, LIMIT).await?;
        outboxd
            .wait_for_status("the row that waits", LIMIT, |status| {
                status["dead_letter_rows"] == 1
            })
            .await?;
        session.batch_execute("SET search_path = app").await?;
        let mend = "UPDATE outbox.outbox SET topic = $1 WHERE id = $2";
        session.execute(mend, &[topic, &dead]).await?;
        let retry = command(&settings, &["dead-letter", "retry", "--all"], LIMIT).await?;
        ensure!(retry.status.success(), "{retry:?}");
        let left = "SELECT count(*) FROM outbox.outbox WHERE published_at IS NULL";
        outboxd.wait_for_value(&session, left, 0, LIMIT).await?;
        let retried = "SELECT count(*) FROM outbox.dead_letter WHERE state = 'retried'";
        outboxd.wait_for_value(&session, retried, 1, LIMIT).await?;
        // The trigger's own names are found: three marks, and the row that was mended.
        let noted = "SELECT count(*) FROM app.audit_log";
        outboxd.wait_for_value(&session, noted, 4, LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        ensure!(!outboxd.log().contains("hijacked"), "{}", outboxd.log());
        let read = fixture.kafka.consume_all(&[topic]).await?;
        let mut ids: Vec<i64> = read.iter().filter_map(ConsumedRecord::outbox_id).collect();
        ids.sort_unstable();
        assert_eq!(ids, [1, 2, 3]);
        let keys = read.iter().map(|record| record.key.as_deref());
        let expected = keys.clone().all(|key| key == Some(b"10.0.0.1".as_slice()));
        ensure!(expected, "{:?}", keys.collect::<Vec<_>>());
    }
    Ok(())
}
