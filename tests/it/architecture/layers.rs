//! The map of the layers: what a room of `src` may use of the others, and of its own inner rooms.

use anyhow::Result;

use super::paths::{Modules, Unknown};
use super::{Source, sources};

/// The layers of one room from the lowest to the highest. Each uses lower ones, and of its own
/// layer only what `beside` lists.
struct Map {
    /// Its folder below `src`; the top has none.
    room: &'static str,
    layers: &'static [&'static [&'static str]],
    beside: &'static [(&'static str, &'static str)],
}

const TOP: Map = Map {
    room: "",
    layers: &[
        &[
            "lsn",
            "error",
            "backoff",
            "fnv",
            "format",
            "line_limit",
            "status",
            "ephemeral",
            "topic_name",
        ],
        &["config", "metrics", "table_name"],
        &["secret_command"],
        &["replication", "postgres", "pgoutput"],
        &["outbox", "kafka"],
        &["engine"],
        &["publisher", "http", "doctor", "verify", "cutover"],
        // The library's root names what it offers; nothing inside uses it.
        &["lib"],
        &["cli"],
        &["main"],
    ],
    beside: &[
        ("config", "table_name"),
        ("status", "format"),
        ("replication", "postgres"),
        ("replication", "pgoutput"),
        ("kafka", "outbox"),
        ("http", "publisher"),
    ],
};

/// The rooms that have rooms. Files of a room that stand here are rooms like its folders.
const INNER: [Map; 1] = [Map {
    room: "publisher",
    layers: &[
        &["clock", "lock_holders", "marking_alarm", "partition_keeper"],
        &[
            "sink",
            "interrupt",
            "lineage",
            "slot_loss",
            "hand_over",
            "instance_lock",
            "skip_search",
        ],
        &["monitor", "connect"],
        &["source"],
        &["resume_state", "replay"],
        &["session_start"],
        &["supervisor"],
        &["resume", "skip_transaction", "peek", "transactions"],
        &["mod"],
    ],
    beside: &[],
}];

/// The engine is pure: these rooms describe and compute, and none of them does anything.
const ENGINE_USES: [&str; 7] = [
    "lsn",
    "error",
    "backoff",
    "topic_name",
    "config",
    "outbox",
    "engine",
];

impl Map {
    fn layer(&self, room: &str) -> Option<usize> {
        self.layers.iter().position(|rooms| rooms.contains(&room))
    }

    /// The room of this map that a file stands in.
    fn room_of<'f>(&self, file: &'f str) -> Option<&'f str> {
        let inside = match self.room {
            "" => file,
            room => file.strip_prefix(room)?.strip_prefix('/')?,
        };
        Some(inside.split('/').next()?.trim_end_matches(".rs"))
    }

    /// Why one file may not use the other.
    fn problem(&self, from: &str, to: &str) -> Option<String> {
        let (from, to) = (self.room_of(from)?, self.room_of(to)?);
        let is_engine = self.room.is_empty() && from == "engine";
        if is_engine && !ENGINE_USES.contains(&to) {
            return Some(format!("{from} → {to}: the engine does nothing itself"));
        }
        let (Some(lower), Some(upper)) = (self.layer(to), self.layer(from)) else {
            return Some(format!("{from} → {to}: not both are on the map"));
        };
        let allowed = from == to || lower < upper || self.beside.contains(&(from, to));
        (!allowed).then(|| format!("{from} → {to} is against the map"))
    }
}

fn problems(sources: &[Source]) -> Vec<String> {
    let modules = Modules::new(sources);
    let mut problems = Vec::new();
    for source in sources {
        let from = &source.path;
        match modules.named_by(source) {
            Ok(named) => {
                for (to, path) in named {
                    let maps = [&TOP].into_iter().chain(&INNER);
                    let found = maps.filter_map(|map| map.problem(from, to));
                    problems.extend(found.map(|problem| format!("{from}: {path}: {problem}")));
                }
            }
            Err(unknown) => {
                let lines = unknown.iter().map(|Unknown(path)| {
                    format!("{from}: {path} is in no file (a path names its room)")
                });
                problems.extend(lines);
            }
        }
    }
    problems
}

#[test]
fn rooms_use_only_rooms_below_them() -> Result<()> {
    let problems = problems(&sources()?);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

#[test]
fn an_arrow_against_the_map_is_seen() {
    let sources = [
        Source::new("lib.rs", ""),
        Source::new("config/mod.rs", "pub struct Config;"),
        Source::new("kafka/mod.rs", "use crate::outbox::Event;"),
        Source::new("postgres/mod.rs", "use crate::replication;"),
        Source::new("replication/mod.rs", "use crate::postgres;"),
        Source::new("engine/mod.rs", "use crate::kafka;"),
        Source::new(
            "outbox/mod.rs",
            "use crate::{config::Config, kafka};\n// crate::http\nfn f() -> crate::Gone {}",
        ),
        Source::new("publisher/sink/gauges.rs", "use crate::publisher::monitor;"),
        Source::new(
            "publisher/monitor/mod.rs",
            "use crate::publisher::sink::gauges;",
        ),
        Source::new("publisher/odd.rs", "use crate::publisher::monitor;"),
    ];
    let found = problems(&sources);
    let expected = [
        "postgres → replication is against the map",
        "engine → kafka: the engine does nothing itself",
        "crate::Gone is in no file",
        "sink → monitor is against the map",
        "odd → monitor: not both are on the map",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for expected in expected {
        assert!(found.iter().any(|it| it.contains(expected)), "{found:#?}");
    }
}
