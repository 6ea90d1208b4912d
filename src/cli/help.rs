//! The command line as clap shows it: the settings that a command uses, and examples.

use clap::Command;

/// The heading of the settings in a command's help.
const HEADING: &str = "Settings";

/// What every command that connects to Postgres uses.
const DATABASE: [&str; 4] = [
    "database_url",
    "database_password_file",
    "database_password_command",
    "operation_timeout",
];

/// What names the rows of a table.
const ROWS: &[&str] = &["table", "preset", "columns", "where"];
/// What names the place of a record.
const PLACES: &[&str] = &["topic", "topics", "key", "partition", "timestamp"];
/// What names the rest of a record.
const CONTENTS: &[&str] = &["value", "null_payload", "headers"];
/// The login that opens the slot.
const REPLICATION: &[&str] = &[
    "replication_url",
    "replication_password_file",
    "replication_password_command",
];
/// What names the source, and its end.
const SOURCE: &[&str] = &["slot", "source", "after_publish"];
/// What `init` prepares, and `status` looks at.
const PREPARED: &[&str] = &["publication", "backlog"];

/// The commands that use only some settings, and which beside those of the database.
const USED: [(&str, &[&[&str]]); 9] = [
    ("init", &[ROWS, SOURCE, PREPARED, PLACES]),
    (
        "status",
        &[ROWS, SOURCE, PREPARED, PLACES, &["http_listen"]],
    ),
    ("dead-letter", &[&["table", "preset"]]),
    ("pause", &[&["table", "slot", "preset"]]),
    ("resume", &[&["table", "slot", "preset"]]),
    (
        "peek",
        &[
            ROWS,
            SOURCE,
            &["publication"],
            PLACES,
            CONTENTS,
            REPLICATION,
        ],
    ),
    ("skip-transaction", &[ROWS, SOURCE, REPLICATION]),
    (
        "export-debezium",
        &[
            ROWS,
            &["slot", "after_publish", "kafka", "kafka_properties"],
            PLACES,
            CONTENTS,
        ],
    ),
    (
        "drop",
        &[&["table", "slot", "publication", "preset"], REPLICATION],
    ),
];

/// The whole command line, as it is shown. A setting that a command does not use is accepted, so
/// that all commands share one settings file and one environment, and left out of its help.
pub(crate) fn shown(command: Command) -> Command {
    USED.iter().fold(command, |command, (name, used)| {
        command.mut_subcommand(name, |command| hide_others(command, used))
    })
}

fn hide_others(command: Command, used: &[&[&str]]) -> Command {
    command.mut_args(|argument| {
        let id = argument.get_id().as_str();
        let is_used = DATABASE.contains(&id) || used.iter().any(|group| group.contains(&id));
        let is_setting = argument.get_help_heading() == Some(HEADING);
        match is_setting && !is_used {
            true => argument.hide(true),
            false => argument,
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use clap::CommandFactory as _;

    use super::{Command, DATABASE, HEADING, USED};
    use crate::cli::Cli;

    fn command() -> Command {
        super::shown(Cli::command())
    }

    /// Every command that does something, with its words, such as `dead-letter list`.
    fn commands(command: &Command, words: &str, found: &mut Vec<(String, Command)>) {
        for inner in command
            .get_subcommands()
            .filter(|it| it.get_name() != "help")
        {
            let words = format!("{words} {}", inner.get_name());
            if inner.has_subcommands() {
                commands(inner, &words, found);
            }
            found.push((words, inner.clone()));
        }
    }

    fn all() -> Vec<(String, Command)> {
        let mut command = command();
        command.build();
        let mut found = vec![(command.get_name().to_owned(), command.clone())];
        commands(&command, "outboxd", &mut found);
        assert!(found.len() > 10, "the commands are found");
        found
    }

    /// The example lines of a command's help.
    fn examples(command: &Command) -> Vec<String> {
        let help = command
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        let lines = help
            .split_once("Examples:\n")
            .map(|(_, lines)| lines.to_owned());
        let lines = lines.unwrap_or_default();
        lines.lines().map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn every_help_has_examples_of_its_own_command_and_each_is_accepted() {
        for (words, of) in all() {
            let examples = examples(&of);
            assert!(!examples.is_empty(), "{words} has no example");
            for example in examples {
                assert!(example.starts_with(&words), "{words}: {example}");
                let line = example.split(" > ").next().unwrap_or_default();
                let arguments = line.split(' ').map(|word| word.trim_matches('\''));
                let parsed = command().try_get_matches_from(arguments);
                assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
            }
        }
    }

    fn shown(command: &Command) -> BTreeSet<String> {
        let settings = command.get_arguments().filter(|argument| {
            argument.get_help_heading() == Some(HEADING) && !argument.is_hide_set()
        });
        settings
            .map(|argument| argument.get_id().to_string())
            .collect()
    }

    #[test]
    fn a_command_shows_only_the_settings_that_it_uses_and_takes_all() {
        let command = command();
        let whole = shown(command.find_subcommand("run").unwrap());
        assert!(whole.contains("kafka_brokers"));
        for (name, used) in USED {
            let of = command.find_subcommand(name).unwrap();
            let expected = DATABASE
                .iter()
                .chain(used.iter().copied().flatten())
                .map(|id| (*id).to_owned())
                .collect();
            assert_eq!(shown(of), expected, "{name}");
            let hidden = ["outboxd", name, "--kafka-brokers", "kafka:9092"];
            let refused = command.clone().try_get_matches_from(hidden).err();
            let text = refused.map(|error| error.to_string()).unwrap_or_default();
            assert!(!text.contains("unexpected argument"), "{text}");
        }
    }
}
