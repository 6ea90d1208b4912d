//! The indexes of the outbox, found by what they cover.
//!
//! An index serves if it may be used, begins with the column, and has every unpublished row. Its
//! name says nothing: names are unique in a schema, so an index of that name may belong to another
//! table. An invalid one is what a concurrent build leaves that was ended; one of outboxd's own
//! name is built again, any other is named and stays. A partitioned table cannot have an index
//! built concurrently, but its partitions can, and then its own is made of theirs.

use postgres_protocol::escape::escape_identifier;

use crate::config::TableName;
use crate::postgres::setup::found::Found;
use crate::postgres::setup::part::{Act, Kind, Part, Todo, drop_index};
use crate::postgres::setup::relations::FoundIndex;
use crate::postgres::table_shape::row_mark::RowMark;
use crate::postgres::table_shape::{TableShape, identifier};

pub(super) const IF_ABSENT: &str = "CREATE INDEX IF NOT EXISTS";
pub(super) const CONCURRENTLY_IF_ABSENT: &str = "CREATE INDEX CONCURRENTLY IF NOT EXISTS";
const BUILD: &str = "CREATE INDEX";
const CONCURRENTLY: &str = "CREATE INDEX CONCURRENTLY";

/// How many names are tried where another relation has the first.
const NAMES_MAX: usize = 9;

/// An index that outboxd or the poller that it replaces needs.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) suffix: &'static str,
    /// Its columns, by their names in the catalog.
    columns: Vec<String>,
    mark: RowMark,
    /// Whether one of all rows serves as well: it finds the unpublished ones, and in no order.
    may_be_whole: bool,
}

/// What a table of this shape needs: the index that finds the first unpublished rows and, for
/// `outbox.outbox` as it always was, the poller's own. None for a view, or if
/// the table shows no row as published.
pub(super) fn wanted(shape: &TableShape) -> Vec<Wanted> {
    let Some(mark) = RowMark::of(shape).filter(|_| !shape.is_view) else {
        return Vec::new();
    };
    let is_given = shape.mapping.columns.published.column.given;
    let poller = (!is_given).then(|| shape.published()).flatten();
    let of_poller = poller.map(|column| Wanted {
        suffix: "_unpublished",
        columns: vec![column.name.clone()],
        mark: mark.clone(),
        may_be_whole: true,
    });
    let order = shape.order_columns();
    let of_order = (!order.is_empty()).then(|| Wanted {
        suffix: "_unpublished_id",
        columns: order.iter().map(|column| column.name.clone()).collect(),
        mark,
        may_be_whole: false,
    });
    of_poller.into_iter().chain(of_order).collect()
}

impl Wanted {
    pub(super) fn statement(&self, build: &str, name: &str, table: &TableName) -> String {
        let columns = self.columns.iter().map(|column| identifier(column));
        format!(
            "{build} {} ON {} ({}) WHERE {}",
            escape_identifier(name),
            table.quoted(),
            columns.collect::<Vec<_>>().join(", "),
            self.mark.unpublished("")
        )
    }

    /// Whether the index is of this kind, valid or not.
    fn fits(&self, index: &FoundIndex) -> bool {
        let has_rows = match &index.predicate {
            Some(predicate) => self.mark.is_predicate(predicate),
            None => self.may_be_whole,
        };
        has_rows && index.method == "btree" && index.column.as_ref() == self.columns.first()
    }
}

/// What is there of the indexes, and what is missing.
pub(super) fn parts(found: &Found, table: &TableName, shape: &TableShape) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for wanted in wanted(shape) {
        parts.push(part(found, table, &wanted));
        parts.extend(strangers(found, table, &wanted));
    }
    parts
}

fn part(found: &Found, table: &TableName, wanted: &Wanted) -> Part {
    let of_table = |index: &&FoundIndex| Some(index.table) == found.table_oid();
    let fitting = || {
        let all = found.indexes.iter().filter(of_table);
        all.filter(|index| wanted.fits(index))
    };
    if let Some(there) = fitting().find(|index| index.is_valid) {
        return Part::there(Kind::Index, format!("index {}", there.name));
    }
    let own = names(table, wanted.suffix);
    let broken = fitting().find(|index| own.contains(&index.name));
    let name = match broken {
        Some(index) => index.name.clone(),
        None => found.free_name(own),
    };
    let thing = format!("index {name}");
    if let Some(builder) = broken.and_then(|index| index.builder) {
        let why = format!("process {builder} is building it");
        return Part::kept(Kind::Index, thing, why);
    }
    let mut todo = build(found, table, wanted, &name, broken.is_some());
    if broken.is_some() && found.is_partitioned() {
        let why = "it is not valid: not every partition has its part".to_owned();
        todo.statement = format!("DROP INDEX {} -- then `outboxd init`", name.quoted());
        return Part::left(Kind::Index, thing, why, todo);
    }
    let lacks = (!found.owns_table()).then(|| found.lacks_ownership(table));
    Part::of(Kind::Index, thing, lacks, todo)
}

/// The steps that build the index under this name.
fn build(found: &Found, table: &TableName, wanted: &Wanted, name: &TableName, again: bool) -> Todo {
    let (name, mut acts) = (&name.name, Vec::new());
    let in_use = found.table_oid().is_some() && !found.is_partitioned();
    let method = if in_use { CONCURRENTLY } else { BUILD };
    if again {
        acts.push(Act::dropping(&table.beside(name), table));
    }
    for leaf in &found.leaves {
        acts.extend(build_on_leaf(found, leaf.oid, &leaf.name, wanted));
    }
    let statement = wanted.statement(method, name, table);
    acts.push(match in_use {
        true => Act::building(statement, table, table.beside(name)),
        false => Act::plain(statement),
    });
    let shown: Vec<&str> = acts.iter().map(|act| act.sql.as_str()).collect();
    Todo {
        statement: shown.join("; "),
        by: found.table_owner(),
        right: format!("to own {table}"),
        acts,
    }
}

/// The concurrent build of a partition's part, unless the partition has one.
fn build_on_leaf(found: &Found, oid: u32, leaf: &TableName, wanted: &Wanted) -> Vec<Act> {
    let fitting = || {
        let all = found.indexes.iter().filter(|index| index.table == oid);
        all.filter(|index| wanted.fits(index))
    };
    // Only one with the same condition becomes a part of the whole.
    let is_same = |index: &FoundIndex| index.is_valid && index.predicate.is_some();
    if fitting().any(is_same) {
        return Vec::new();
    }
    let own = names(leaf, wanted.suffix);
    let broken = fitting().find(|index| own.contains(&index.name) && index.builder.is_none());
    let name = match broken {
        Some(index) => index.name.clone(),
        None => found.free_name(own),
    };
    let mut acts = Vec::from_iter(broken.map(|index| Act::dropping(&index.name, leaf)));
    let statement = wanted.statement(CONCURRENTLY, &name.name, leaf);
    acts.push(Act::building(statement, leaf, name));
    acts
}

/// Invalid indexes of a name that outboxd does not give.
fn strangers(found: &Found, table: &TableName, wanted: &Wanted) -> Vec<Part> {
    let own = names(table, wanted.suffix);
    let invalid = found.indexes.iter().filter(|index| {
        let is_of_table = Some(index.table) == found.table_oid();
        is_of_table && !index.is_valid && index.builder.is_none() && wanted.fits(index)
    });
    let strange = invalid.filter(|index| !own.contains(&index.name));
    let kept = |index: &FoundIndex| {
        let why = format!(
            "it is not valid, and no query uses it; as {}: {}",
            found.table_owner(),
            drop_index(&index.name)
        );
        Part::kept(Kind::Other, format!("index {}", index.name), why)
    };
    strange.map(kept).collect()
}

/// The names that outboxd gives, in the order in which it tries them.
fn names(table: &TableName, suffix: &str) -> Vec<TableName> {
    let numbered = (2..=NAMES_MAX).map(|number| table.index(&format!("{suffix}_{number}")));
    std::iter::once(table.index(suffix))
        .chain(numbered)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::setup::part::State;

    const NAME: &str = "outbox";

    fn table() -> TableName {
        TableName::default()
    }

    fn index(name: &str, column: &str) -> FoundIndex {
        FoundIndex {
            table: 1,
            name: table().beside(name),
            is_valid: true,
            column: Some(column.to_owned()),
            predicate: Some("(published_at IS NULL)".to_owned()),
            method: "btree".to_owned(),
            builder: None,
        }
    }

    /// The list for a table with these indexes.
    fn list(indexes: Vec<FoundIndex>) -> Vec<(String, String)> {
        let taken = indexes.iter().map(|index| index.name.clone()).collect();
        let found = Found {
            indexes,
            names: taken,
            ..Found::of_table(&[("id", "bigint"), ("published_at", "timestamp")])
        };
        let shown = |part: Part| match part.state {
            State::There => (part.thing, "there".to_owned()),
            State::Kept(why) => (part.thing, format!("kept: {why}")),
            State::Missing(todo) => (part.thing, todo.statement),
            State::Left { why, .. } => (part.thing, format!("left: {why}")),
        };
        let shape = found.shape.clone().expect("the table is there");
        parts(&found, &table(), &shape)
            .into_iter()
            .map(shown)
            .collect()
    }

    #[test]
    fn an_index_serves_by_what_it_covers_and_not_by_its_name() {
        let [first, second] = ["idx_outbox_unpublished", "idx_outbox_unpublished_id"];
        let served = list(vec![index("a", "published_at"), index("b", "id")]);
        assert_eq!(served[0], ("index outbox.a".to_owned(), "there".to_owned()));
        assert_eq!(served[1], ("index outbox.b".to_owned(), "there".to_owned()));
        // The names alone: each on the other's column.
        let swapped = list(vec![index(first, "id"), index(second, "event_type")]);
        assert_eq!(swapped[0].0, format!("index {NAME}.{first}_2"));
        assert_eq!(swapped[1].1, "there");
        for broken in [
            FoundIndex {
                predicate: None,
                ..index("b", "id")
            },
            FoundIndex {
                predicate: Some("(topic = 'a'::text)".into()),
                ..index("b", "id")
            },
            FoundIndex {
                column: None,
                ..index("b", "id")
            },
            FoundIndex {
                method: "hash".into(),
                ..index("b", "id")
            },
        ] {
            let list = list(vec![broken]);
            assert!(
                list[1].1.starts_with("CREATE INDEX CONCURRENTLY"),
                "{list:?}"
            );
        }
        // Every row is found by the first column of an index without a condition.
        let whole = FoundIndex {
            predicate: None,
            ..index("w", "published_at")
        };
        assert_eq!(list(vec![whole])[0].1, "there");
    }

    #[test]
    fn an_invalid_index_of_our_name_is_built_again_and_any_other_is_named() {
        let invalid = |name: &str| FoundIndex {
            is_valid: false,
            ..index(name, "id")
        };
        let ours = list(vec![invalid("idx_outbox_unpublished_id")]);
        let again = "DROP INDEX CONCURRENTLY IF EXISTS \"outbox\".\"idx_outbox_unpublished_id\"; \
                     CREATE INDEX CONCURRENTLY \"idx_outbox_unpublished_id\"";
        assert!(ours[1].1.starts_with(again), "{ours:?}");
        let theirs = list(vec![invalid("theirs")]);
        assert!(
            theirs[1].1.starts_with("CREATE INDEX CONCURRENTLY"),
            "{theirs:?}"
        );
        assert_eq!(theirs[2].0, "index outbox.theirs");
        assert!(
            theirs[2].1.contains("DROP INDEX CONCURRENTLY"),
            "{theirs:?}"
        );
        let building = FoundIndex {
            builder: Some(7),
            ..invalid("idx_outbox_unpublished_id")
        };
        let building = list(vec![building]);
        assert_eq!(building[1].1, "kept: process 7 is building it");
    }

    #[test]
    fn partitions_are_built_concurrently_before_the_whole() {
        let mut found = Found::of_table(&[("id", "bigint"), ("published_at", "timestamp")]);
        found.partition(&[(2, "early"), (3, "late")]);
        found.indexes = vec![FoundIndex {
            table: 2,
            ..index("e", "id")
        }];
        let shape = found.shape.clone().expect("the table is there");
        let parts = parts(&found, &table(), &shape);
        let State::Missing(todo) = &parts[1].state else {
            panic!("{parts:?}");
        };
        let sql: Vec<&str> = todo.acts.iter().map(|act| act.sql.as_str()).collect();
        assert_eq!(
            sql,
            [
                "CREATE INDEX CONCURRENTLY \"idx_late_unpublished_id\" \
                 ON \"outbox\".\"late\" (id) WHERE published_at IS NULL",
                "CREATE INDEX \"idx_outbox_unpublished_id\" \
                 ON \"outbox\".\"outbox\" (id) WHERE published_at IS NULL",
            ]
        );
    }
}
