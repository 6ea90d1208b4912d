//! The command that continues a replay: the one that was given, with moments in place of times ago,
//! with an end, and behind the last row that is done.

use std::ffi::OsString;

use outboxd::config::may_be_secret;
use outboxd::outbox::replay::{ReplayFilter, ReplayTime};

/// The flags that the new command has with other values, or not at all.
const REPLACED: [&str; 5] = ["--since", "--until", "--from-id", "--to-id", "--after"];

/// See the module's head. `after` is the last row that is done.
pub(super) fn command(filter: &ReplayFilter, after: Option<&str>) -> String {
    of(std::env::args_os().skip(1), filter, after)
}

fn of(
    arguments: impl Iterator<Item = OsString>,
    filter: &ReplayFilter,
    after: Option<&str>,
) -> String {
    let mut words = vec!["outboxd".to_owned()];
    let mut arguments = arguments.map(|it| it.to_string_lossy().into_owned());
    while let Some(argument) = arguments.next() {
        let (flag, value) = match argument.split_once('=') {
            Some((flag, _)) => (flag, true),
            None => (argument.as_str(), false),
        };
        // With an end, the rows are no longer all.
        if flag == "--all" {
            continue;
        }
        if REPLACED.contains(&flag) {
            if !value {
                arguments.next();
            }
            continue;
        }
        words.push(quoted(&argument));
    }
    let time = |time: &Option<ReplayTime>| match time {
        Some(ReplayTime::At(at)) => Some(at.clone()),
        _ => None,
    };
    let flags = [
        ("--from-id", filter.from_id.clone()),
        ("--to-id", filter.to_id.clone()),
        ("--since", time(&filter.since)),
        ("--until", time(&filter.until)),
        ("--after", after.map(str::to_owned)),
    ];
    if is_open(filter) {
        words.push("--all".to_owned());
    }
    for (flag, value) in flags {
        if let Some(value) = value {
            words.extend([flag.to_owned(), quoted(&value)]);
        }
    }
    words.join(" ")
}

/// Whether nothing but its position limits the rows.
fn is_open(filter: &ReplayFilter) -> bool {
    let all = ReplayFilter {
        after: filter.after.clone(),
        ..ReplayFilter::default()
    };
    *filter == all
}

/// A word of a shell. What may hold a secret is left to the person to write.
fn quoted(word: &str) -> String {
    if may_be_secret(word) {
        return "…".to_owned();
    }
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+".contains(c);
    match !word.is_empty() && word.chars().all(is_safe) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn continued(arguments: &[&str], filter: &ReplayFilter, after: Option<&str>) -> String {
        of(arguments.iter().map(OsString::from), filter, after)
    }

    #[test]
    fn the_command_keeps_what_was_given_and_names_moments_and_an_end() {
        let filter = ReplayFilter {
            to_id: Some("900".to_owned()),
            since: Some(ReplayTime::At("2026-01-31T12:00:00.5Z".to_owned())),
            topics: vec!["a b".to_owned()],
            ..ReplayFilter::default()
        };
        let given = [
            "replay",
            "--since=2h",
            "--after",
            "5",
            "--only-topic",
            "a b",
            "--rate",
            "9",
        ];
        assert_eq!(
            continued(&given, &filter, Some("17")),
            "outboxd replay --only-topic 'a b' --rate 9 --to-id 900 \
             --since 2026-01-31T12:00:00.5Z --after 17"
        );
    }

    #[test]
    fn a_replay_of_all_rows_continues_with_its_end_or_with_all_and_shows_no_secret() {
        let mut filter = ReplayFilter::default();
        let given = [
            "replay",
            "--all",
            "--database-url",
            "postgres://a:secret@h/db",
        ];
        let after = "[\"a\", \"it's\"]";
        assert_eq!(
            continued(&given, &filter, Some(after)),
            "outboxd replay --database-url … --all --after '[\"a\", \"it'\\''s\"]'"
        );
        filter.to_id = Some("-5".to_owned());
        let command = continued(&given, &filter, None);
        assert!(
            command.ends_with(" --to-id -5") && !command.contains("--all"),
            "{command}"
        );
    }
}
