//! The side of the database: reads the rows of the window, makes of each the record that it ought
//! to have, and keeps what that is compared by.

use std::collections::HashMap;
use std::path::Path;

use tokio::task::yield_now;

use crate::config::Config;
use crate::config::mapping::HeaderStyle;
use crate::error::Result;
use crate::outbox::{EventSource, LetterList, Router, Stretch, WindowRow, WindowRows};
use crate::postgres::{Session, TableShape};
use crate::verify::moment;
use crate::verify::progress::Progress;
use crate::verify::store::digest;
use crate::verify::store::entry::{Entry as _, LetterEntry, RowEntry, RowFacts};
use crate::verify::store::spill::Spill;

/// What was read of the database.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) spill: Spill,
    /// The names of the topics, by their numbers in the entries.
    pub(super) topics: Vec<String>,
    /// The creation of the oldest row without a mark, in microseconds since 1970.
    pub(super) oldest_unmarked: Option<i64>,
}

/// Reads the rows of the window. `found` gets the name of each topic once.
///
/// # Errors
/// Of the table, the server or the disk.
pub(super) async fn read(
    session: &Session,
    config: &Config,
    window: &mut WindowRows,
    (folder, buckets): (&Path, usize),
    progress: &Progress,
    found: impl Fn(&str),
) -> Result<Rows> {
    let mut maker = Maker {
        router: Router::new(&config.mapping),
        is_structured: config.mapping.headers == HeaderStyle::CloudEventsStructured,
        numbers: HashMap::new(),
        rows: Rows {
            spill: Spill::new(folder, buckets)?,
            topics: Vec::new(),
            oldest_unmarked: None,
        },
    };
    let Some(first) = window.begin(session).await? else {
        return Ok(maker.rows);
    };
    let window = &*window;
    let mut stretch = window.stretch(session, &first).await?;
    loop {
        let next = async {
            match &stretch.next {
                Some(start) => window.stretch(session, start).await.map(Some),
                None => Ok(None),
            }
        };
        let kept = async {
            // The server is at work on the next stretch meanwhile: its statement goes first.
            yield_now().await;
            maker.keep_stretch(window, &stretch, &found)
        };
        let (next, ()) = tokio::try_join!(next, kept)?;
        let read = stretch.rows.len() + usize::from(stretch.unreadable.is_some());
        progress.add_rows(read as u64);
        match next {
            Some(next) => stretch = next,
            None => return Ok(maker.rows),
        }
    }
}

struct Maker {
    router: Router,
    is_structured: bool,
    numbers: HashMap<String, u32>,
    rows: Rows,
}

impl Maker {
    fn entry(
        &mut self,
        window: &WindowRows,
        row: &WindowRow,
        found: impl Fn(&str),
    ) -> Result<RowEntry> {
        let event = window.event(row)?;
        let created = row.created_micros();
        let marked = row.published.unwrap_or(false);
        if !marked {
            let oldest = self.rows.oldest_unmarked.into_iter().chain(created);
            self.rows.oldest_unmarked = oldest.min();
        }
        let mut entry = RowEntry::unreadable(&event.id);
        entry.created = digest::text(event.created_at.map(str::as_bytes));
        entry.time = created.into_iter().chain(row.marked_micros).min();
        entry.facts.marked = marked;
        entry.facts.unattempted = row.is_unattempted.unwrap_or(false);
        let is_dated = event.created_at.is_some_and(|created_at| {
            let moment = moment::absolute(created_at);
            moment.is_some()
        });
        entry.facts.any_value = self.is_structured && !is_dated;
        // A row that cannot become a record has a dead letter.
        let Ok(record) = self.router.record(&event, EventSource::Table) else {
            return Ok(entry);
        };
        entry.facts.unreadable = false;
        entry.place = digest::place(record.topic, record.key);
        entry.value = digest::value(record.value);
        entry.topic = match self.numbers.get(record.topic) {
            Some(number) => *number,
            None => {
                let number = self.rows.topics.len() as u32;
                self.rows.topics.push(record.topic.to_owned());
                self.numbers.insert(record.topic.to_owned(), number);
                found(record.topic);
                number
            }
        };
        Ok(entry)
    }

    fn keep_stretch(
        &mut self,
        window: &WindowRows,
        stretch: &Stretch,
        found: impl Fn(&str),
    ) -> Result<()> {
        for row in &stretch.rows {
            let entry = self.entry(window, row, &found)?;
            self.keep(&entry)?;
        }
        match &stretch.unreadable {
            Some(name) => self.keep(&RowEntry::unreadable(&name.id.to_string())),
            None => Ok(()),
        }
    }

    fn keep(&mut self, entry: &RowEntry) -> Result<()> {
        let number = digest::bucket(&entry.id);
        self.rows.spill.push(number, |bytes| entry.write(bytes))
    }
}

impl RowEntry {
    /// A row of which only the id is known.
    fn unreadable(id: &str) -> Self {
        RowEntry {
            id: digest::id(id.as_bytes()),
            created: 0,
            place: 0,
            value: 0,
            time: None,
            topic: u32::MAX,
            facts: RowFacts {
                unreadable: true,
                ..RowFacts::default()
            },
            name: id.into(),
        }
    }
}

/// Reads the dead letters about rows.
///
/// # Errors
/// Of the table, the server or the disk.
pub(super) async fn letters(
    session: &Session,
    shape: &TableShape,
    (folder, buckets): (&Path, usize),
) -> Result<Spill> {
    let list = LetterList::new(shape);
    let mut spill = Spill::new(folder, buckets)?;
    let mut behind = Some(i64::MIN);
    while let Some(number) = behind {
        let (letters, last) = list.behind(session, number).await?;
        for letter in letters {
            let entry = LetterEntry {
                id: digest::id(letter.id.as_bytes()),
                created: digest::text(letter.created_at.as_deref().map(str::as_bytes)),
                is_sent: letter.is_sent,
                is_retried: letter.is_retried,
            };
            let number = digest::bucket(&entry.id);
            spill.push(number, |bytes| entry.write(bytes))?;
        }
        behind = last;
    }
    Ok(spill)
}
