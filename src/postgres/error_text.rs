//! What of an error's texts may be shown: no values of a row. Pure.
//!
//! Values that the server quotes are left out. What a trigger or a function of the users raises is
//! kept for the row's dead letter, and the log gets the condition and the place instead.
//!
//! An error is the users' if its state is that of PL/pgSQL or none of the manual's, if a procedural
//! language reports it, or if a function of one was running: what the server says then may quote a
//! statement that was put together from values. The server's words are translated and the names of
//! languages are not. A trigger in C looks like the server itself.

use tokio_postgres::error::DbError;

/// The functions of PL/pgSQL whose errors have a text of the users.
const RAISING: [&str; 2] = ["exec_stmt_raise", "exec_stmt_assert"];

/// The source files of the other languages of Postgres that report errors. A file that is not of C
/// is not one of the server.
const OF_LANGUAGES: [&str; 3] = ["plpy_elog.c", "plperl.c", "pltcl.c"];

/// The longest place that is shown; a name has up to 63 bytes.
const PLACE_MAX: usize = 300;

/// The longest text of a server that is kept, in bytes.
const TEXT_MAX: usize = 4 << 10;

/// The text of a server, cut where it is too long to be logged again and again.
pub(crate) fn shortened(text: &str) -> String {
    if text.len() <= TEXT_MAX {
        return text.to_owned();
    }
    format!(
        "{}…",
        text.get(..text.floor_char_boundary(TEXT_MAX))
            .unwrap_or_default()
    )
}

/// The classes of the manual's appendix:
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
const CLASSES: [(&str, &str); 43] = [
    ("00", "successful_completion"),
    ("01", "warning"),
    ("02", "no_data"),
    ("03", "sql_statement_not_yet_complete"),
    ("08", "connection_exception"),
    ("09", "triggered_action_exception"),
    ("0A", "feature_not_supported"),
    ("0B", "invalid_transaction_initiation"),
    ("0F", "locator_exception"),
    ("0L", "invalid_grantor"),
    ("0P", "invalid_role_specification"),
    ("0Z", "diagnostics_exception"),
    ("10", "xquery_error"),
    ("20", "case_not_found"),
    ("21", "cardinality_violation"),
    ("22", "data_exception"),
    ("23", "integrity_constraint_violation"),
    ("24", "invalid_cursor_state"),
    ("25", "invalid_transaction_state"),
    ("26", "invalid_sql_statement_name"),
    ("27", "triggered_data_change_violation"),
    ("28", "invalid_authorization_specification"),
    ("2B", "dependent_privilege_descriptors_still_exist"),
    ("2D", "invalid_transaction_termination"),
    ("2F", "sql_routine_exception"),
    ("34", "invalid_cursor_name"),
    ("38", "external_routine_exception"),
    ("39", "external_routine_invocation_exception"),
    ("3B", "savepoint_exception"),
    ("3D", "invalid_catalog_name"),
    ("3F", "invalid_schema_name"),
    ("40", "transaction_rollback"),
    ("42", "syntax_error_or_access_rule_violation"),
    ("44", "with_check_option_violation"),
    ("53", "insufficient_resources"),
    ("54", "program_limit_exceeded"),
    ("55", "object_not_in_prerequisite_state"),
    ("57", "operator_intervention"),
    ("58", "system_error"),
    ("72", "snapshot_too_old"),
    ("F0", "config_file_error"),
    ("HV", "fdw_error"),
    ("XX", "internal_error"),
];

/// The states by their names that the code of users causes most.
const STATES: [(&str, &str); 17] = [
    ("P0000", "plpgsql_error"),
    ("P0001", "raise_exception"),
    ("P0002", "no_data_found"),
    ("P0003", "too_many_rows"),
    ("P0004", "assert_failure"),
    ("22003", "numeric_value_out_of_range"),
    ("22012", "division_by_zero"),
    ("22P02", "invalid_text_representation"),
    ("23502", "not_null_violation"),
    ("23503", "foreign_key_violation"),
    ("23505", "unique_violation"),
    ("23514", "check_violation"),
    ("42501", "insufficient_privilege"),
    ("42601", "syntax_error"),
    ("42703", "undefined_column"),
    ("42883", "undefined_function"),
    ("42P01", "undefined_table"),
];

/// What the server says about where an error comes from.
#[derive(Debug, Clone, Copy, Default)]
struct Origin<'a> {
    state: &'a str,
    file: &'a str,
    routine: &'a str,
    context: &'a str,
}

/// What is logged in place of the error's message, if the code of users is the reason.
pub(super) fn in_place_of_message(error: &DbError) -> Option<String> {
    Origin {
        state: error.code().code(),
        file: error.file().unwrap_or_default(),
        routine: error.routine().unwrap_or_default(),
        context: error.where_().unwrap_or_default(),
    }
    .in_place_of_message()
}

/// The message without a row's values. Those of class 22 (data exception) quote the value, but for
/// invalid_parameter_value, which quotes a setting, and character_not_in_repertoire.
pub(crate) fn without_values(state: &str, message: &str) -> String {
    let quotes_a_value = state.starts_with("22") && !["22023", "22021"].contains(&state);
    match message.split_once('"') {
        Some((before, rest)) if quotes_a_value => {
            let after = rest.rsplit_once('"').map_or("", |(_, after)| after);
            format!("{before}\"…\"{after}")
        }
        _ => message.to_owned(),
    }
}

impl Origin<'_> {
    fn in_place_of_message(&self) -> Option<String> {
        if !self.is_of_users() {
            return None;
        }
        let at = self.place().map_or_else(
            || "in a trigger or function".to_owned(),
            |place| format!("in {place}"),
        );
        let condition = self.condition();
        Some(format!("{condition} {at}; the server's log has its text"))
    }

    fn is_of_users(&self) -> bool {
        let of_a_language = OF_LANGUAGES.contains(&self.file)
            || !(self.file.is_empty() || self.file.ends_with(".c"));
        RAISING.contains(&self.routine)
            || of_a_language
            || self.class().is_none()
            || self.context.contains("PL/")
    }

    /// `None` if the manual has no such class, or if it is that of PL/pgSQL.
    fn class(&self) -> Option<&'static str> {
        let class = self.state.get(..2)?;
        let class = CLASSES.iter().find(|(known, _)| *known == class);
        class.map(|(_, name)| *name)
    }

    fn condition(&self) -> &'static str {
        let named = STATES.iter().find(|(state, _)| *state == self.state);
        let named = named.map(|(_, name)| *name);
        named.or(self.class()).unwrap_or("a state of its own")
    }

    /// The outermost function, which the trigger calls: its line is the last one. Only lines before
    /// it quote statements.
    fn place(&self) -> Option<&str> {
        let last = self.context.lines().next_back()?;
        (last.contains("PL/") && last.len() <= PLACE_MAX).then_some(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIGGER: &str = "PL/pgSQL function outbox.tell() line 4 at RAISE";

    fn raised() -> Origin<'static> {
        Origin {
            state: "P0001",
            file: "pl_exec.c",
            routine: "exec_stmt_raise",
            context: TRIGGER,
        }
    }

    #[test]
    fn what_a_trigger_raises_is_named_by_its_condition_and_its_place() {
        let shown = |origin: Origin<'_>| origin.in_place_of_message();
        let expected = "raise_exception in PL/pgSQL function outbox.tell() line 4 at RAISE; the \
                        server's log has its text";
        assert_eq!(shown(raised()).as_deref(), Some(expected));
        for (state, condition) in [
            ("23514", "check_violation in PL/"),
            ("55000", "object_not_in_prerequisite_state in PL/"),
            ("ZZ001", "a state of its own in PL/"),
            ("P0999", "a state of its own in PL/"),
        ] {
            let shown = shown(Origin { state, ..raised() }).unwrap_or_default();
            assert!(shown.starts_with(condition), "{shown}");
        }
    }

    /// Another language, a translated server, and a statement that a function puts together.
    #[test]
    fn a_language_marks_the_code_of_users_and_a_statement_is_not_shown() {
        let server = Origin {
            state: "42703",
            file: "parse_relation.c",
            routine: "errorMissingColumn",
            context: "",
        };
        assert_eq!(server.in_place_of_message(), None);
        let quoted =
            "SQL statement \"SELECT \"4111\"\"\nfonction PL/pgSQL tell(), ligne 4, à EXECUTE";
        let shown = Origin {
            context: quoted,
            ..server
        };
        let shown = shown.in_place_of_message().unwrap_or_default();
        assert!(
            shown.starts_with("undefined_column in fonction PL/pgSQL"),
            "{shown}"
        );
        assert!(!shown.contains("4111"), "{shown}");
        for file in ["plpy_elog.c", "plv8.cc"] {
            let shown = Origin {
                file,
                context: "undefined() LINE 1: throw '4111'",
                state: "XX000",
                ..server
            };
            let shown = shown.in_place_of_message().unwrap_or_default();
            let expected = "internal_error in a trigger or function; the server's log has its text";
            assert_eq!(shown, expected);
        }
    }

    #[test]
    fn the_servers_own_words_are_kept() {
        for (state, file, context) in [
            (
                "23503",
                "ri_triggers.c",
                "SQL statement \"SELECT 1 FROM ONLY a.b x\"",
            ),
            (
                "55P03",
                "lmgr.c",
                "while updating tuple (0,1) in relation \"outbox\"",
            ),
            (
                "54000",
                "stringinfo.c",
                "slot \"s\", output plugin \"pgoutput\", in the change callback",
            ),
            ("57P01", "postgres.c", ""),
            ("28000", "", ""),
        ] {
            let origin = Origin {
                state,
                file,
                context,
                routine: "",
            };
            assert_eq!(origin.in_place_of_message(), None, "{origin:?}");
        }
    }
}
