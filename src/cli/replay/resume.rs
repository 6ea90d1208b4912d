//! The command that continues a replay: the one that was given, with moments in place of times ago,
//! with an end, and behind the last row that is done. Or with `--continue` in place of what chooses
//! rows, where the progress record has all that.

use std::ffi::OsString;

use outboxd::config::may_be_secret;
use outboxd::outbox::replay::{ReplayFilter, ReplayTime};

/// The flags that the new command has with other values, or not at all.
const REPLACED: [&str; 5] = ["--since", "--until", "--from-id", "--to-id", "--after"];
/// Further flags that choose rows.
const CHOOSING: [&str; 3] = ["--only-topic", "--only-type", "--only-where"];

/// See the module's head. `after` is the last row that is done.
pub(super) fn behind(filter: &ReplayFilter, after: Option<&str>) -> String {
    of(arguments(), filter, after)
}

/// The command for a replay that has a progress record.
pub(super) fn recorded() -> String {
    of_record(arguments())
}

fn arguments() -> impl Iterator<Item = OsString> {
    std::env::args_os().skip(1)
}

fn of(
    arguments: impl Iterator<Item = OsString>,
    filter: &ReplayFilter,
    after: Option<&str>,
) -> String {
    let mut words = without(arguments, &REPLACED);
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

fn of_record(arguments: impl Iterator<Item = OsString>) -> String {
    let mut words = without(arguments, &[&REPLACED[..], &CHOOSING].concat());
    words.push("--continue".to_owned());
    words.join(" ")
}

/// The words of the command without these flags and their values, and without `--all` and
/// `--continue`: with an end, the rows are no longer all.
fn without(arguments: impl Iterator<Item = OsString>, flags: &[&str]) -> Vec<String> {
    let mut words = vec!["outboxd".to_owned()];
    let mut arguments = arguments.map(|it| it.to_string_lossy().into_owned());
    while let Some(argument) = arguments.next() {
        let (flag, has_value) = match argument.split_once('=') {
            Some((flag, _)) => (flag, true),
            None => (argument.as_str(), false),
        };
        if ["--all", "--continue"].contains(&flag) {
            continue;
        }
        if flags.contains(&flag) {
            if !has_value {
                arguments.next();
            }
            continue;
        }
        words.push(quoted(&argument));
    }
    words
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
    fn a_recorded_replay_continues_without_what_chooses_its_rows() {
        let given = [
            "replay",
            "--since=2h",
            "--only-topic",
            "a b",
            "--rate",
            "9",
            "--all",
            "--continue",
            "--only-where",
            "a = 'b'",
            "--slot=s",
        ];
        let command = of_record(given.map(OsString::from).into_iter());
        assert_eq!(command, "outboxd replay --rate 9 --slot=s --continue");
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
