#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;

use crate::lsn::Lsn;
use crate::pgoutput::golden;
use crate::pgoutput::*;

fn columns<'a>(tuple: Tuple<'a>) -> Vec<Column<'a>> {
    let columns: Vec<_> = tuple.iter().collect();
    assert_eq!(columns.len(), tuple.len());
    columns
}

fn text(value: &str) -> Column<'_> {
    Column::Text(value.as_bytes())
}

#[test]
fn begin_and_commit_carry_their_positions_and_the_commit_time() {
    let committed_at = Timestamp::from_postgres_micros(0x0003_03f7_1609_3fea);
    let commit_lsn = "0/1930690".parse().unwrap();
    assert_eq!(
        Message::decode(&golden::bytes(golden::BEGIN)),
        Ok(Message::Begin(Begin {
            final_lsn: commit_lsn,
            committed_at,
            xid: 734
        }))
    );
    assert_eq!(
        Message::decode(&golden::bytes(golden::COMMIT)),
        Ok(Message::Commit(Commit {
            commit_lsn,
            end_lsn: "0/19306C0".parse().unwrap(),
            committed_at
        }))
    );
}

#[test]
fn a_relation_names_the_columns_in_order() {
    let bytes = golden::bytes(golden::OUTBOX_RELATION);
    let Ok(Message::Relation(relation)) = Message::decode(&bytes) else {
        panic!("no relation");
    };
    assert_eq!(
        (relation.namespace.as_str(), relation.name.as_str()),
        ("outbox", "outbox")
    );
    assert_eq!(relation.replica_identity, ReplicaIdentity::Default);
    let columns: Vec<_> = relation
        .columns
        .iter()
        .map(|c| (c.key, c.name.as_str(), c.type_id, c.type_modifier))
        .collect();
    assert_eq!(
        columns,
        [
            (true, "id", 20, -1),
            (false, "event_type", 25, -1),
            (false, "topic", 25, -1),
            (false, "event_payload", 3802, -1),
            (false, "created_at", 1114, -1),
            (false, "times_attempted", 23, -1),
            (false, "published_at", 1114, -1),
        ]
    );
}

#[test]
fn replica_identity_full_and_the_relation_of_an_enum_are_understood() {
    let bytes = golden::bytes(golden::FULL_RELATION);
    let Ok(Message::Relation(full)) = Message::decode(&bytes) else {
        panic!("no relation");
    };
    assert_eq!(full.replica_identity, ReplicaIdentity::Full);
    let bytes = golden::bytes(golden::ENUM_RELATION);
    let Ok(Message::Relation(relation)) = Message::decode(&bytes) else {
        panic!("no relation");
    };
    assert_eq!(
        Message::decode(&golden::bytes(golden::TYPE)),
        Ok(Message::Type(TypeName {
            id: relation.columns[1].type_id,
            namespace: "public",
            name: "mood"
        }))
    );
}

#[test]
fn the_system_catalog_gets_its_name() {
    let relation = [b"R\0\0\0\x01\0pg_class\0n".as_slice(), &[0, 0]].concat();
    let Ok(Message::Relation(relation)) = Message::decode(&relation) else {
        panic!("no relation");
    };
    assert_eq!(relation.namespace, "pg_catalog");
}

#[test]
fn an_insert_gives_the_row_as_printed() {
    let bytes = golden::bytes(golden::OUTBOX_INSERT);
    let Ok(Message::Insert(insert)) = Message::decode(&bytes) else {
        panic!("no insert");
    };
    assert_eq!(insert.relation_id, 0x4009);
    assert_eq!(
        columns(insert.new),
        [
            text("1"),
            text("OrderCreated"),
            text("orders"),
            text(r#"{"a": [1, "ö"], "b": 1}"#),
            text("2024-05-06 07:08:09.123456"),
            text("0"),
            Column::Null,
        ]
    );
    let bytes = golden::bytes(golden::INSERT_BINARY);
    let Ok(Message::Insert(insert)) = Message::decode(&bytes) else {
        panic!("no insert");
    };
    assert_eq!(
        columns(insert.new)[0],
        Column::Binary(&[0, 0, 0, 0, 0, 0, 0, 1])
    );
}

#[test]
fn updates_and_deletes_tell_old_from_new() {
    let bytes = golden::bytes(golden::UPDATE);
    let Ok(Message::Update(update)) = Message::decode(&bytes) else {
        panic!("no update");
    };
    assert_eq!(update.old, None);
    assert_eq!(
        columns(update.new),
        [text("1"), text("glad"), Column::Unchanged]
    );

    let bytes = golden::bytes(golden::UPDATE_KEY);
    let Ok(Message::Update(Update {
        old: Some(OldTuple::Key(old)),
        new,
        ..
    })) = Message::decode(&bytes)
    else {
        panic!("no update of a key");
    };
    assert_eq!(columns(old), [text("1"), Column::Null, Column::Null]);
    assert_eq!(columns(new)[0], text("2"));

    let bytes = golden::bytes(golden::UPDATE_FULL);
    let Ok(Message::Update(Update {
        old: Some(OldTuple::Full(old)),
        new,
        ..
    })) = Message::decode(&bytes)
    else {
        panic!("no update of a whole row");
    };
    assert_eq!(columns(old), [text("1"), Column::Null]);
    assert_eq!(columns(new), [text("1"), text("q")]);

    let bytes = golden::bytes(golden::DELETE_KEY);
    let Ok(Message::Delete(Delete {
        relation_id,
        old: OldTuple::Key(old),
    })) = Message::decode(&bytes)
    else {
        panic!("no delete by key");
    };
    assert_eq!((relation_id, columns(old)[0]), (0x4012, text("2")));

    let bytes = golden::bytes(golden::DELETE_FULL);
    assert!(matches!(
        Message::decode(&bytes),
        Ok(Message::Delete(Delete {
            old: OldTuple::Full(_),
            ..
        }))
    ));
}

#[test]
fn truncate_origin_and_messages_are_understood() {
    let bytes = golden::bytes(golden::TRUNCATE);
    let Ok(Message::Truncate(truncate)) = Message::decode(&bytes) else {
        panic!("no truncate");
    };
    assert!(truncate.cascade && truncate.restart_identity);
    assert_eq!(
        truncate.relation_ids().collect::<Vec<_>>(),
        [0x4012, 0x4019]
    );
    assert_eq!(
        Message::decode(&golden::bytes(golden::ORIGIN)),
        Ok(Message::Origin(Origin {
            commit_lsn: "0/AABBCC00".parse().unwrap(),
            name: "elsewhere"
        }))
    );
    assert_eq!(
        Message::decode(&golden::bytes(golden::MESSAGE_TRANSACTIONAL)),
        Ok(Message::Message(LogicalMessage {
            transactional: true,
            lsn: "0/1932E20".parse().unwrap(),
            prefix: "outboxd",
            content: b"hi"
        }))
    );
    assert_eq!(
        Message::decode(&golden::bytes(golden::MESSAGE_ALONE)),
        Ok(Message::Message(LogicalMessage {
            transactional: false,
            lsn: "0/1932E90".parse().unwrap(),
            prefix: "outboxd",
            content: b"now"
        }))
    );
}

#[test]
fn letters_of_other_protocol_versions_and_unknown_ones_stop_the_stream() {
    for letter in (0..=u8::MAX).filter(|letter| !b"BCORYIUDTM".contains(letter)) {
        assert_eq!(
            Message::decode(&[letter, 0, 0, 0, 1]),
            Err(DecodeError::UnknownMessage(letter))
        );
    }
    assert_eq!(Message::decode(&[]), Err(DecodeError::Empty));
}

#[test]
fn a_message_that_ends_early_or_late_is_refused() {
    for hex in golden::ALL {
        let whole = golden::bytes(hex);
        for end in 0..whole.len() {
            assert!(
                Message::decode(&whole[..end]).is_err(),
                "{hex} cut at {end}"
            );
        }
        let longer = [whole.as_slice(), &[0]].concat();
        assert_eq!(
            Message::decode(&longer),
            Err(DecodeError::TrailingBytes(1)),
            "{hex}"
        );
    }
}

#[test]
fn negative_lengths_and_counts_are_refused() {
    let negative_count = b"I\0\0\0\x01N\xff\xff";
    let negative_length = b"I\0\0\0\x01N\0\x01t\xff\xff\xff\xff";
    let negative_truncate = b"T\xff\xff\xff\xff\0";
    for bytes in [&negative_count[..], negative_length, negative_truncate] {
        assert_eq!(Message::decode(bytes), Err(DecodeError::NegativeLength));
    }
}

#[test]
fn a_debug_print_shows_no_payload() {
    for hex in [golden::OUTBOX_INSERT, golden::MESSAGE_TRANSACTIONAL] {
        let bytes = golden::bytes(hex);
        let printed = format!("{:?}", Message::decode(&bytes).unwrap());
        assert!(
            !printed.contains("104, 105") && !printed.contains("hi"),
            "{printed}"
        );
        assert!(printed.contains("bytes"), "{printed}");
    }
}

/// The inverse of [`Message::decode`], byte for byte, for messages whose unused bits are zero.
fn encode(message: &Message<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let string = |out: &mut Vec<u8>, text: &str| {
        out.extend_from_slice(text.as_bytes());
        out.push(0);
    };
    match message {
        Message::Begin(begin) => {
            out.push(b'B');
            out.extend(begin.final_lsn.raw().to_be_bytes());
            out.extend(begin.committed_at.postgres_micros().to_be_bytes());
            out.extend(begin.xid.to_be_bytes());
        }
        Message::Commit(commit) => {
            out.extend(b"C\0");
            out.extend(commit.commit_lsn.raw().to_be_bytes());
            out.extend(commit.end_lsn.raw().to_be_bytes());
            out.extend(commit.committed_at.postgres_micros().to_be_bytes());
        }
        Message::Origin(origin) => {
            out.push(b'O');
            out.extend(origin.commit_lsn.raw().to_be_bytes());
            string(&mut out, origin.name);
        }
        Message::Relation(relation) => {
            out.push(b'R');
            out.extend(relation.id.to_be_bytes());
            let namespace = relation.namespace.as_str();
            string(
                &mut out,
                if namespace == "pg_catalog" {
                    ""
                } else {
                    namespace
                },
            );
            string(&mut out, &relation.name);
            out.push(match relation.replica_identity {
                ReplicaIdentity::Default => b'd',
                ReplicaIdentity::Nothing => b'n',
                ReplicaIdentity::Full => b'f',
                ReplicaIdentity::Index => b'i',
            });
            out.extend(i16::try_from(relation.columns.len()).unwrap().to_be_bytes());
            for column in &relation.columns {
                out.push(u8::from(column.key));
                string(&mut out, &column.name);
                out.extend(column.type_id.to_be_bytes());
                out.extend(column.type_modifier.to_be_bytes());
            }
        }
        Message::Type(name) => {
            out.push(b'Y');
            out.extend(name.id.to_be_bytes());
            string(&mut out, name.namespace);
            string(&mut out, name.name);
        }
        Message::Insert(insert) => {
            out.push(b'I');
            out.extend(insert.relation_id.to_be_bytes());
            encode_tuple(&mut out, b'N', insert.new);
        }
        Message::Update(update) => {
            out.push(b'U');
            out.extend(update.relation_id.to_be_bytes());
            if let Some(old) = update.old {
                encode_old(&mut out, old);
            }
            encode_tuple(&mut out, b'N', update.new);
        }
        Message::Delete(delete) => {
            out.push(b'D');
            out.extend(delete.relation_id.to_be_bytes());
            encode_old(&mut out, delete.old);
        }
        Message::Truncate(truncate) => {
            out.push(b'T');
            out.extend(
                i32::try_from(truncate.relation_ids().len())
                    .unwrap()
                    .to_be_bytes(),
            );
            out.push(u8::from(truncate.cascade) | u8::from(truncate.restart_identity) << 1);
            truncate
                .relation_ids()
                .for_each(|id| out.extend(id.to_be_bytes()));
        }
        Message::Message(message) => {
            out.push(b'M');
            out.push(u8::from(message.transactional));
            out.extend(message.lsn.raw().to_be_bytes());
            string(&mut out, message.prefix);
            out.extend(i32::try_from(message.content.len()).unwrap().to_be_bytes());
            out.extend(message.content);
        }
    }
    out
}

fn encode_old(out: &mut Vec<u8>, old: OldTuple<'_>) {
    match old {
        OldTuple::Key(tuple) => encode_tuple(out, b'K', tuple),
        OldTuple::Full(tuple) => encode_tuple(out, b'O', tuple),
    }
}

fn encode_tuple(out: &mut Vec<u8>, letter: u8, tuple: Tuple<'_>) {
    out.push(letter);
    out.extend(i16::try_from(tuple.len()).unwrap().to_be_bytes());
    for column in tuple {
        let mut value = |kind, bytes: &[u8]| {
            out.push(kind);
            out.extend(i32::try_from(bytes.len()).unwrap().to_be_bytes());
            out.extend(bytes);
        };
        match column {
            Column::Text(bytes) => value(b't', bytes),
            Column::Binary(bytes) => value(b'b', bytes),
            Column::Null => out.push(b'n'),
            Column::Unchanged => out.push(b'u'),
        }
    }
}

fn tuple_bytes(letter: char) -> impl Strategy<Value = Vec<u8>> {
    let column = prop_oneof![
        Just(vec![b'n']),
        Just(vec![b'u']),
        (
            prop_oneof![Just(b't'), Just(b'b')],
            prop::collection::vec(any::<u8>(), 0..40)
        )
            .prop_map(|(kind, value)| {
                [
                    &[kind][..],
                    &u32::try_from(value.len()).unwrap().to_be_bytes(),
                    &value,
                ]
                .concat()
            }),
    ];
    prop::collection::vec(column, 0..12).prop_map(move |columns| {
        let count = u16::try_from(columns.len()).unwrap().to_be_bytes();
        [&[letter as u8][..], &count, &columns.concat()].concat()
    })
}

/// Well-formed rows behind an oid: of an insert, or of an update or delete with an old row.
fn row_message() -> impl Strategy<Value = Vec<u8>> {
    let old = || prop_oneof![tuple_bytes('K'), tuple_bytes('O')];
    prop_oneof![
        (any::<u32>(), tuple_bytes('N')).prop_map(|(id, new)| (b'I', id, new)),
        (any::<u32>(), tuple_bytes('N')).prop_map(|(id, new)| (b'U', id, new)),
        (any::<u32>(), old(), tuple_bytes('N')).prop_map(|(id, old, new)| (
            b'U',
            id,
            [old, new].concat()
        )),
        (any::<u32>(), old()).prop_map(|(id, old)| (b'D', id, old)),
    ]
    .prop_map(|(letter, id, rows)| [&[letter][..], &id.to_be_bytes(), &rows].concat())
}

fn other_message() -> impl Strategy<Value = Message<'static>> {
    let name = || "[a-zö]{0,9}";
    let lsn = || any::<u64>().prop_map(Lsn::new);
    let time = || any::<i64>().prop_map(Timestamp::from_postgres_micros);
    let identity = prop_oneof![
        Just(ReplicaIdentity::Default),
        Just(ReplicaIdentity::Nothing),
        Just(ReplicaIdentity::Full),
        Just(ReplicaIdentity::Index),
    ];
    let column = (any::<bool>(), name(), any::<u32>(), any::<i32>()).prop_map(
        |(key, name, type_id, type_modifier)| RelationColumn {
            key,
            name,
            type_id,
            type_modifier,
        },
    );
    prop_oneof![
        (lsn(), time(), any::<u32>()).prop_map(|(final_lsn, committed_at, xid)| {
            Message::Begin(Begin {
                final_lsn,
                committed_at,
                xid,
            })
        }),
        (lsn(), lsn(), time()).prop_map(|(commit_lsn, end_lsn, committed_at)| {
            Message::Commit(Commit {
                commit_lsn,
                end_lsn,
                committed_at,
            })
        }),
        (
            any::<u32>(),
            "[a-z]{1,9}",
            name(),
            identity,
            prop::collection::vec(column, 0..9)
        )
            .prop_map(|(id, namespace, name, replica_identity, columns)| {
                Message::Relation(Relation {
                    id,
                    namespace,
                    name,
                    replica_identity,
                    columns,
                })
            }),
    ]
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Message::decode(&bytes);
    }

    #[test]
    fn arbitrary_bytes_behind_a_known_letter_never_panic(
        letter in prop::sample::select(b"BCORYIUDTM".as_slice()),
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [&[letter][..], &rest].concat();
        if let Ok(message) = Message::decode(&bytes) {
            let _ = format!("{message:?}");
        }
    }

    #[test]
    fn a_damaged_message_never_panics_and_never_yields_other_bytes(
        hex in prop::sample::select(golden::ALL.as_slice()),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = golden::bytes(hex);
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Ok(message) = Message::decode(&bytes) {
            // Only unused bits may be lost.
            prop_assert_eq!(encode(&message).len(), bytes.len());
        }
    }

    #[test]
    fn rows_encode_to_the_bytes_they_came_from(bytes in row_message()) {
        let message = Message::decode(&bytes);
        prop_assert_eq!(message.as_ref().map(encode), Ok(bytes.clone()));
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same_message(message in other_message()) {
        let bytes = encode(&message);
        prop_assert_eq!(Message::decode(&bytes), Ok(message));
    }
}

#[test]
fn every_captured_message_encodes_to_the_bytes_it_came_from() {
    for hex in golden::ALL {
        let bytes = golden::bytes(hex);
        assert_eq!(encode(&Message::decode(&bytes).unwrap()), bytes);
    }
}
