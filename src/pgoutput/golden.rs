//! Messages as a real Postgres 15.18 sent them.
//!
//! Captured in psql from a slot that `pg_create_logical_replication_slot('s', 'pgoutput')` created,
//! a publication `p FOR ALL TABLES`, and then
//!
//! ```sql
//! INSERT INTO outbox.outbox (event_type, topic, event_payload, created_at)
//!     VALUES ('OrderCreated', 'orders', '{"b": 1, "a": [1, "ö"]}', '2024-05-06 07:08:09.123456');
//! -- t (a int PRIMARY KEY, m mood, big text STORAGE EXTERNAL),
//! -- f (a int, b text) REPLICA IDENTITY FULL
//! BEGIN;
//! INSERT INTO t VALUES (1, 'sad', repeat('x', 3000)); UPDATE t SET m = 'glad'; UPDATE t SET a = 2;
//! DELETE FROM t; INSERT INTO f VALUES (1, NULL); UPDATE f SET b = 'q'; DELETE FROM f;
//! TRUNCATE t, f RESTART IDENTITY CASCADE; COMMIT;
//! SELECT pg_logical_emit_message(true, 'outboxd', 'hi');
//! SELECT pg_logical_emit_message(false, 'outboxd', 'now');
//! -- and, after pg_replication_origin_session_setup('elsewhere'), an insert with
//! SELECT pg_replication_origin_xact_setup('0/AABBCC00', '2024-05-06 07:08:09+00');
//!
//! SELECT encode(data, 'hex') FROM pg_logical_slot_peek_binary_changes('s', NULL, NULL,
//!     'proto_version', '1', 'publication_names', 'p', 'messages', 'true');
//! ```
//!
//! `INSERT_BINARY` is the first insert again with the option `binary`.

pub(crate) const BEGIN: &str = "420000000001930690000303f716093fea000002de";
pub(crate) const OUTBOX_RELATION: &str = "\
52000040096f7574626f78006f7574626f78006400070169640000000014ffffffff006576656e745f7479706500000000\
19ffffffff00746f7069630000000019ffffffff006576656e745f7061796c6f61640000000edaffffffff006372656174\
65645f6174000000045affffffff0074696d65735f617474656d707465640000000017ffffffff007075626c6973686564\
5f6174000000045affffffff";
pub(crate) const OUTBOX_INSERT: &str = "\
49000040094e0007740000000131740000000c4f726465724372656174656474000000066f726465727374000000187b22\
61223a205b312c2022c3b6225d2c202262223a20317d740000001a323032342d30352d30362030373a30383a30392e3132\
333435367400000001306e";
pub(crate) const INSERT_BINARY: &str = "\
49000040094e000762000000080000000000000001620000000c4f726465724372656174656462000000066f7264657273\
6200000019017b2261223a205b312c2022c3b6225d2c202262223a20317d62000000080002bac2801b6a80620000000400\
0000006e";
pub(crate) const COMMIT: &str = "4300000000000193069000000000019306c0000303f716093fea";
pub(crate) const TYPE: &str = "59000040027075626c6963006d6f6f6400";
pub(crate) const ENUM_RELATION: &str = "\
52000040127075626c696300740064000301610000000017ffffffff006d0000004002ffffffff006269670000000019ff\
ffffff";
pub(crate) const UPDATE: &str = "55000040124e00037400000001317400000004676c616475";
pub(crate) const UPDATE_KEY: &str = "\
55000040124b00037400000001316e6e4e00037400000001327400000004676c616475";
pub(crate) const DELETE_KEY: &str = "44000040124b00037400000001326e6e";
pub(crate) const FULL_RELATION: &str = "\
52000040197075626c696300660066000201610000000017ffffffff01620000000019ffffffff";
pub(crate) const INSERT_NULL: &str = "49000040194e00027400000001316e";
pub(crate) const UPDATE_FULL: &str = "55000040194f00027400000001316e4e0002740000000131740000000171";
pub(crate) const DELETE_FULL: &str = "44000040194f0002740000000131740000000171";
pub(crate) const TRUNCATE: &str = "5400000002030000401200004019";
pub(crate) const MESSAGE_TRANSACTIONAL: &str = "4d010000000001932e206f7574626f786400000000026869";
pub(crate) const MESSAGE_ALONE: &str = "4d000000000001932e906f7574626f786400000000036e6f77";
pub(crate) const ORIGIN: &str = "4f00000000aabbcc00656c7365776865726500";

pub(crate) const ALL: [&str; 18] = [
    BEGIN,
    OUTBOX_RELATION,
    OUTBOX_INSERT,
    INSERT_BINARY,
    COMMIT,
    TYPE,
    ENUM_RELATION,
    UPDATE,
    UPDATE_KEY,
    DELETE_KEY,
    FULL_RELATION,
    INSERT_NULL,
    UPDATE_FULL,
    DELETE_FULL,
    TRUNCATE,
    MESSAGE_TRANSACTIONAL,
    MESSAGE_ALONE,
    ORIGIN,
];

/// The bytes of one of the constants above.
pub(crate) fn bytes(hex: &str) -> Vec<u8> {
    hex::decode(hex).unwrap_or_else(|error| panic!("{error}: {hex}"))
}
