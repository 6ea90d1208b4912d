//! Reads `OUTBOX_WHERE`: conditions of a small part of SQL, so that a row can be judged by its
//! bytes in the stream as well as by a statement.
//!
//! Only tests for equality and null are read. Both sides compare texts then, and no operator or
//! function of the database has to be imitated.

use crate::config::error::InvalidValue;
use crate::config::mapping::row_filter::{Condition, RowFilter, Test};
use crate::config::parse::name_of;
use crate::error::shown;
use crate::table_name::identifier;

const GRAMMAR: &str = "write conditions joined by AND, each column = 'text', <>, IN ('a', 'b'), \
                       NOT IN (…), IS NULL or IS NOT NULL";

/// Words that are no names of columns unless they are quoted.
const KEYWORDS: [&str; 10] = [
    "and", "between", "exists", "false", "in", "is", "like", "not", "null", "or",
];

/// Reads the whole setting.
pub(in crate::config) fn row_filter(text: &str) -> Result<RowFilter, InvalidValue> {
    let mut reader = Reader { rest: text };
    let mut conditions = Vec::new();
    loop {
        conditions.push(reader.condition()?);
        reader.skip_space();
        if reader.rest.is_empty() {
            return Ok(RowFilter { conditions });
        }
        if !reader.takes_word("and") {
            return Err(reader.error("AND or the end"));
        }
    }
}

/// Takes one part after the other off the front of the text.
struct Reader<'t> {
    rest: &'t str,
}

impl<'t> Reader<'t> {
    fn condition(&mut self) -> Result<Condition, InvalidValue> {
        let column = self.column()?;
        let test = self.test()?;
        Ok(Condition { column, test })
    }

    fn column(&mut self) -> Result<String, InvalidValue> {
        self.skip_space();
        let is_keyword = KEYWORDS.iter().any(|word| self.has_word(word));
        let found = identifier(self.rest).filter(|_| !is_keyword);
        let (name, rest) = found.ok_or_else(|| self.error("the name of a column"))?;
        self.rest = rest;
        name_of("column", &name)
    }

    fn test(&mut self) -> Result<Test, InvalidValue> {
        if self.takes("=") {
            return Ok(Test::OneOf(vec![self.literal()?]));
        }
        if self.takes("<>") || self.takes("!=") {
            return Ok(Test::NoneOf(vec![self.literal()?]));
        }
        if self.takes_word("in") {
            return Ok(Test::OneOf(self.literals()?));
        }
        if self.takes_word("not") && self.expect_word("in")? {
            return Ok(Test::NoneOf(self.literals()?));
        }
        if self.takes_word("is") {
            let is_negated = self.takes_word("not");
            self.expect_word("null")?;
            return Ok(match is_negated {
                true => Test::NotNull,
                false => Test::Null,
            });
        }
        Err(self.error("=, <>, IN, NOT IN or IS"))
    }

    fn literals(&mut self) -> Result<Vec<String>, InvalidValue> {
        if !self.takes("(") {
            return Err(self.error("a list in parentheses"));
        }
        let mut literals = vec![self.literal()?];
        while self.takes(",") {
            literals.push(self.literal()?);
        }
        match self.takes(")") {
            true => Ok(literals),
            false => Err(self.error("a comma or )")),
        }
    }

    /// A value as Postgres prints it.
    fn literal(&mut self) -> Result<String, InvalidValue> {
        self.skip_space();
        if let Some(text) = self.text()? {
            return Ok(text);
        }
        // Postgres prints a boolean with one letter.
        for (word, printed) in [("true", "t"), ("false", "f")] {
            if self.takes_word(word) {
                return Ok(printed.to_owned());
            }
        }
        if self.has_word("null") {
            return Err(InvalidValue::new(
                "compares with NULL, which is never true",
                "write IS NULL or IS NOT NULL",
            ));
        }
        let is_of_number = |c: char| c.is_ascii_digit() || matches!(c, '.' | '-');
        let end = self.rest.find(|c| !is_of_number(c));
        let (number, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        let goes_on = rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        if goes_on || !is_number(number) {
            return Err(self.error("'text', a number, true or false"));
        }
        self.rest = rest;
        Ok(number.to_owned())
    }

    /// A text in quotes, of which two stand for one.
    fn text(&mut self) -> Result<Option<String>, InvalidValue> {
        let Some(mut rest) = self.rest.strip_prefix('\'') else {
            return Ok(None);
        };
        let mut text = String::new();
        loop {
            let Some((part, after)) = rest.split_once('\'') else {
                return Err(InvalidValue::new(
                    format!(
                        "has a text without an end: {}",
                        shown(first_word(self.rest))
                    ),
                    "write 'text', and two quotes for one inside",
                ));
            };
            text.push_str(part);
            match after.strip_prefix('\'') {
                Some(more) => {
                    text.push('\'');
                    rest = more;
                }
                None => {
                    self.rest = after;
                    return Ok(Some(text));
                }
            }
        }
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn takes(&mut self, sign: &str) -> bool {
        self.skip_space();
        let rest = self.rest.strip_prefix(sign);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Whether this word comes next, in any case.
    fn has_word(&self, word: &str) -> bool {
        let is_of_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$');
        let end = self.rest.find(|c| !is_of_word(c));
        let next = &self.rest[..end.unwrap_or(self.rest.len())];
        next.eq_ignore_ascii_case(word)
    }

    fn takes_word(&mut self, word: &str) -> bool {
        self.skip_space();
        let is_next = self.has_word(word);
        if is_next {
            self.rest = &self.rest[word.len()..];
        }
        is_next
    }

    fn expect_word(&mut self, word: &str) -> Result<bool, InvalidValue> {
        match self.takes_word(word) {
            true => Ok(true),
            false => Err(self.error(&word.to_uppercase())),
        }
    }

    /// That something else stands here than what may.
    fn error(&self, expected: &str) -> InvalidValue {
        let rest = self.rest.trim_start();
        let problem = match rest.is_empty() {
            true => format!("ends where {expected} has to follow"),
            false => format!(
                "has {} where {expected} has to stand",
                shown(first_word(rest))
            ),
        };
        InvalidValue::new(problem, GRAMMAR)
    }
}

/// What an error quotes of the rest.
fn first_word(rest: &str) -> &str {
    rest.split_whitespace().next().unwrap_or_default()
}

/// A number as Postgres prints one of an integer or numeric column.
fn is_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
    digits(whole) && digits(fraction) && (whole == "0" || !whole.starts_with('0'))
}
