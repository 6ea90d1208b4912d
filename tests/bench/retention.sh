#!/bin/sh
# What a mark, a delete and the later delete of retention cost Postgres, and a simulated week.
#
#   tests/bench/retention.sh BIN SOCKETS PORT [OUTBOXD [ROWS [DAYS]]]
#
# BIN has psql and pgbench, and SOCKETS is the folder of the server's socket, on this machine: the
# CPU time is that of the server process. The role is postgres. With OUTBOXD, a program, DAYS days
# (by default 7) of ROWS rows a day (by default 100,000) pass: at the end of each day, retention
# deletes the rows of the day before. The rows are dated, and OUTBOX_RETAIN moves instead of the
# clock. Each day has four windows of inserts, without retention, with it twice, and without it, each
# behind a checkpoint and beside a running outboxd. An hour of rows is old in them, so that none is
# overdue and retention keeps the pace of a table that it holds flat. The two windows with retention
# begin once it deletes, and one outboxd runs through both. Then a share of half of the time deletes
# the day, which takes hours at that pace, and VACUUM does the work of the autovacuum of those hours.
# Kafka is away, so the load inserts rows that count as published: retention waits while events do. A
# disk may stall for longer than any step takes, so the median of the windows says more than one.
# Makes and drops the database retention_bench.
set -eu

bin=$1 sockets=$2 port=$3 program=${4:-} a_day=${5:-100000} days=${6:-7}
rows=200000
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
sql() { "$bin/psql" -h "$sockets" -p "$port" -U postgres -qAt -v ON_ERROR_STOP=1 "$@"; }
sql -d postgres -c 'DROP DATABASE IF EXISTS retention_bench WITH (FORCE)' \
    -c 'CREATE DATABASE retention_bench'
db="-d retention_bench"

# $1: storage parameters; $2: the mark of every row.
fresh() {
    sql $db <<SQL
DROP TABLE IF EXISTS b;
CREATE TABLE b (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event_type text, topic text,
    event_payload jsonb, created_at timestamp DEFAULT now(), times_attempted integer DEFAULT 0,
    published_at timestamp) $1;
CREATE INDEX ON b (published_at) WHERE published_at IS NULL;
CREATE INDEX ON b (id) WHERE published_at IS NULL;
INSERT INTO b (event_type, topic, event_payload, published_at)
    SELECT 'a', 't', jsonb_build_object('x', repeat('y', 230)), $2
      FROM generate_series(1, $rows);
VACUUM ANALYZE b;
CHECKPOINT;
SQL
}

# $1: a name; $2: a query whose rows are the statements.
cost() {
    sql $db -c "$2" >statements
    {
        echo "SELECT pg_backend_pid() AS pid, pg_current_wal_insert_lsn() AS lsn \\gset"
        echo '\setenv PID :pid'
        echo '\! cat /proc/$PID/stat >before'
        echo 'SET synchronous_commit = off;'
        cat statements
        echo '\! cat /proc/$PID/stat >after'
        echo "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), :'lsn');"
    } >script
    wal=$(sql $db -f script | tail -1)
    awk -v name="$1" -v wal="$wal" -v rows=$rows 'NR == FNR { from = $14 + $15; next }
        { printf "%-28s %5.1f us CPU, %4d bytes of WAL a row\n", name,
              ($14 + $15 - from) * 10000 / rows, wal / rows }' before after
}

series="generate_series(1, $rows, 1000) AS i"
ids="id = ANY (ARRAY(SELECT generate_series(%s, %s))) AND published_at IS NULL"
mark="SELECT format('UPDATE b SET published_at = LOCALTIMESTAMP,
    times_attempted = times_attempted + 1 WHERE $ids;', i, i + 999) FROM $series"
delete="SELECT format('DELETE FROM b WHERE $ids;', i, i + 999) FROM $series"
later="SELECT format(\$\$WITH seen AS MATERIALIZED (SELECT t.ctid AS place FROM b AS t
    WHERE t.ctid >= '(%s,0)'::tid AND t.ctid < '(%s,0)'::tid AND t.published_at IS NOT NULL
      AND t.published_at < LOCALTIMESTAMP - INTERVAL '7 days'
    LIMIT 1000 FOR UPDATE OF t SKIP LOCKED),
    gone AS (DELETE FROM b AS t WHERE t.ctid = ANY (ARRAY(SELECT place FROM seen)) RETURNING 1)
    SELECT count(*) FROM gone \\g /dev/null\$\$, i, i + 25)
    FROM generate_series(0, pg_relation_size('b') / 8192, 25) AS i"
fresh '' NULL && cost mark "$mark"
fresh 'WITH (fillfactor = 50)' NULL && cost 'mark, fillfactor 50' "$mark"
fresh '' NULL && cost delete "$delete"
fresh '' "now() - INTERVAL '8 days'" && cost 'delete by pages, later' "$later"

if [ -n "$program" ]; then
    export DATABASE_URL="postgresql://postgres@localhost/retention_bench?host=$sockets&port=$port"
    export OUTBOX_SOURCE=poll OUTBOX_BACKLOG=publish KAFKA_BROKERS=127.0.0.1:1
    export OUTBOX_HTTP_LISTEN=off OUTBOX_LOG=info
    "$program" init >/dev/null
    # $1: the day, of thirty that end now.
    day() {
        sql $db <<SQL
INSERT INTO outbox.outbox (event_type, topic, event_payload, created_at, published_at)
    SELECT 'k', 'orders', jsonb_build_object('x', repeat('y', 230)), t, t
      FROM (SELECT localtimestamp - INTERVAL '30 days'
                       + INTERVAL '1 day' * ($1 + i / $a_day::float8) AS t
              FROM generate_series(0, $a_day - 1) AS i) AS rows;
VACUUM ANALYZE outbox.outbox;
SQL
    }
    size() {
        sql $db -c "SELECT '$1: ' || pg_size_pretty(pg_table_size('outbox.outbox')) || ' table, '
            || pg_size_pretty(pg_indexes_size('outbox.outbox')) || ' indexes'"
    }
    # The rows of the load are of the same day, so that they are deleted on the next one.
    cat >insert <<'SQL'
INSERT INTO outbox.outbox (event_type, topic, event_payload, created_at, published_at)
    SELECT 'k', 'orders', jsonb_build_object('x', repeat('y', 230)), t, t
      FROM (SELECT localtimestamp - INTERVAL '30 days' + INTERVAL '1 day' * (:day + 0.5) AS t) AS t;
SQL
    # $1: the day; $2: with or without; $3: the window. The p99 goes to a file.
    latencies() {
        cat "$2.$1.$3".* | awk '{ print $3 / 1000 }' | sort -n | awk -v day="$1" -v with="$2" '
            { all[NR] = $1 }
            END { p99 = all[int(NR * 0.99)]; print p99 >>(with "-p99")
                  printf "day %d, %s retention: %d inserts, ", day, with, NR
                  printf "p50 %.1f ms, p99 %.1f ms, longest %.1f ms\n",
                      all[int(NR * 0.5)], p99, all[NR] }'
    }
    median() {
        sort -n "$1-p99" | awk -v with="$1" '{ all[NR] = $1 }
            END { printf "%s retention, median of %d windows: p99 %.2f ms\n", with, NR,
                      (all[int((NR + 1) / 2)] + all[int(NR / 2) + 1]) / 2 }'
    }
    # $1: OUTBOX_RETAIN; $2: OUTBOX_RETAIN_SHARE, if any.
    start() {
        before=$(deleted)
        env OUTBOX_RETAIN="$1" ${2:+OUTBOX_RETAIN_SHARE=$2} "$program" run >log 2>&1 & pid=$!
        sleep 1
    }
    # $1: the day; $2: with or without; $3: the window.
    load() {
        sql $db -c CHECKPOINT
        window=$(deleted)
        "$bin/pgbench" -h "$sockets" -p "$port" -U postgres -n -f insert -D day=$1 -c 4 -R 300 \
            -T 25 -l --log-prefix="$2.$1.$3" retention_bench >/dev/null 2>&1
        latencies $1 "$2" $3
        echo "    rows deleted meanwhile: $(($(deleted) - window))"
    }
    deleted() {
        sql $db -c "SELECT pg_stat_get_tuples_deleted('outbox.outbox'::regclass)"
    }
    end() { kill $pid && wait $pid || true; }
    day 1
    for n in $(seq 2 $((days + 1))); do
        day $n
        start off
        load $n without 1
        end
        start $(((31 - n) * 24 - 1))h
        until [ $(deleted) -gt $before ]; do sleep 1; done
        load $n with 2
        load $n with 3
        end
        start off
        load $n without 4
        end
        start $((30 - n))d 50%
        until grep -o 'old rows deleted.*' log; do sleep 1; done
        end
        sql $db -c 'VACUUM outbox.outbox'
        size "day $n"
    done
    median without
    median with
fi
sql -d postgres -c 'DROP DATABASE retention_bench WITH (FORCE)'
