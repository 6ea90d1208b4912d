//! The filter of rows: what is read, and what is refused.

use super::*;
use crate::config::mapping::{Condition, RowFilter, Test};

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_filter_is_conditions_that_all_hold() {
    let filter = |text: &str| mapping_of(with("where", text)).filter;
    let one_of = |texts: &[&str]| Test::OneOf(names(texts));
    let none_of = |texts: &[&str]| Test::NoneOf(names(texts));
    for (text, column, test) in [
        ("kind = 'event'", "kind", one_of(&["event"])),
        ("Kind='it''s'", "kind", one_of(&["it's"])),
        ("\"Kind\"  =''", "Kind", one_of(&[""])),
        ("\"a \"\"b\" <> 'x'", "a \"b", none_of(&["x"])),
        ("kind != -1.50", "kind", none_of(&["-1.50"])),
        ("n=0", "n", one_of(&["0"])),
        ("done = TRUE", "done", one_of(&["t"])),
        ("done <> false", "done", none_of(&["f"])),
        ("kind In ('a' , 'b',3)", "kind", one_of(&["a", "b", "3"])),
        ("kind not IN ('a')", "kind", none_of(&["a"])),
        ("deleted IS NULL", "deleted", Test::Null),
        ("deleted is not null", "deleted", Test::NotNull),
        ("\"in\" IS NULL", "in", Test::Null),
    ] {
        let column = column.to_owned();
        let conditions = vec![Condition { column, test }];
        assert_eq!(filter(text), RowFilter { conditions }, "{text}");
    }
    let several = filter("a = 'x AND y' and b IS NOT NULL AND c IN (1)");
    let columns: Vec<&str> = several
        .conditions
        .iter()
        .map(|it| it.column.as_str())
        .collect();
    assert_eq!(columns, ["a", "b", "c"]);
    assert_eq!(filter(""), RowFilter::default());
}

#[test]
fn anything_else_in_a_filter_is_named_with_what_may_be_written() {
    let grammar = "; write conditions joined by AND, each column = 'text', <>, IN ('a', 'b')";
    for (text, problem) in [
        ("kind", "ends where =, <>, IN, NOT IN or IS has to follow"),
        (
            "kind < 3",
            "has `<` where =, <>, IN, NOT IN or IS has to stand",
        ),
        (
            "kind LIKE 'a%'",
            "has `LIKE` where =, <>, IN, NOT IN or IS has to stand",
        ),
        (
            "a = 1 OR b = 2",
            "has `OR` where AND or the end has to stand",
        ),
        ("a = 1 AND", "ends where the name of a column has to follow"),
        (
            "NOT a = 1",
            "has `NOT` where the name of a column has to stand",
        ),
        (
            "(a = 1)",
            "has `(a` where the name of a column has to stand",
        ),
        (
            "lower(a) = 'x'",
            "has `(a)` where =, <>, IN, NOT IN or IS has to stand",
        ),
        (
            "a = b",
            "has `b` where 'text', a number, true or false has to stand",
        ),
        ("a = 1e5", "has `1e5` where 'text'"),
        ("a = 007", "has `007` where 'text'"),
        ("a = 1.", "has `1.` where 'text'"),
        ("a = -", "has `-` where 'text'"),
        (
            "a = 'x'::text",
            "has `::text` where AND or the end has to stand",
        ),
        (
            "a IN 'x'",
            "has `\\'x\\'` where a list in parentheses has to stand",
        ),
        ("a IN ()", "has `)` where 'text'"),
        ("a IN ('x'", "ends where a comma or ) has to follow"),
        ("a NOT NULL", "has `NULL` where IN has to stand"),
        ("a IS TRUE", "has `TRUE` where NULL has to stand"),
    ] {
        fails(with("where", text), &format!("OUTBOX_WHERE {problem}"));
        let error = only_error(build(with("where", text)));
        assert!(error.contains(grammar), "{error}");
    }
    fails(
        with("where", "a = NULL"),
        "OUTBOX_WHERE compares with NULL, which is never true; write",
    );
    fails(
        with("where", "a = 'x"),
        "OUTBOX_WHERE has a text without an end: `\\'x`; write 'text'",
    );
    fails(
        with("where", "\"\" = 1"),
        "OUTBOX_WHERE `` is not the name of a column",
    );
}
