//! When a wait is logged. Pure: times and figures are arguments.
//!
//! A wait that lasts is logged after five seconds and then at growing intervals, and one that was
//! logged is logged once more when it is over. A wait that comes and goes keeps its intervals, and
//! so do waits that alternate: neither can fill the log.

use std::time::{Duration, Instant};

use crate::format::{age, bytes};

/// The wait for another instance, which is no problem.
pub(crate) const LOCK: &str = "lock";
/// The wait for a lock that a session holds which is not outboxd.
pub(crate) const FOREIGN_LOCK: &str = "foreign-lock";

/// A wait is logged once it has lasted this long.
const FIRST: Duration = Duration::from_secs(5);
/// The seconds between the lines of a wait. The last number repeats.
const PAUSES: [u64; 8] = [25, 30, 60, 180, 300, 1_200, 1_800, 3_600];
/// A wait is over when none has been shown for this long.
const OVER: Duration = Duration::from_secs(3);
/// The same while another wait is shown.
const REPLACED: Duration = Duration::from_secs(5);
/// A wait that comes back after this time is logged as a new one.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// The waits for a session. Meanwhile it is not known what else the publisher would wait for.
const FOR_A_SESSION: [&str; 3] = ["postgres", LOCK, FOREIGN_LOCK];

/// How long a wait has lasted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lasted {
    /// Since it was first shown.
    SinceNamed,
    /// This long.
    For(Duration),
}

/// What the publisher holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Figures {
    /// Events that were read and are not done.
    pub(super) held: u64,
    /// Events that were published since the start.
    pub(super) published: u64,
    /// Bytes of WAL between the slot's position and the server's, if known.
    pub(super) lag_bytes: Option<i64>,
    /// Whether a broker has answered since the start.
    pub(super) kafka_has_answered: bool,
}

/// A line about a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// It goes on.
    Lasts {
        on: &'static str,
        lasted: Duration,
        figures: Figures,
    },
    /// It is over; so many events were published since it began.
    Over {
        on: &'static str,
        lasted: Duration,
        published: u64,
    },
}

#[derive(Debug)]
struct Wait {
    on: &'static str,
    began: Instant,
    shown_at: Instant,
    is_over: bool,
    /// Events that were published before it began.
    published: u64,
    /// Whether a line has been written since it began.
    is_logged: bool,
    /// The lines that count for the next interval, and when the last one was written.
    lines: usize,
    logged_at: Instant,
}

impl Wait {
    fn is_due(&self, now: Instant) -> bool {
        let first = match self.on {
            LOCK | FOREIGN_LOCK => Duration::ZERO,
            _ => FIRST,
        };
        let pause = match self.lines {
            0 => return now >= self.began + first,
            // A standby is no problem.
            _ if self.on == LOCK => return false,
            lines => PAUSES[(lines - 1).min(PAUSES.len() - 1)],
        };
        now >= self.began + first && now >= self.logged_at + Duration::from_secs(pause)
    }

    fn over(&mut self, figures: Figures) -> Option<Line> {
        self.is_over = true;
        self.is_logged.then(|| Line::Over {
            on: self.on,
            lasted: self.shown_at - self.began,
            published: figures.published.saturating_sub(self.published),
        })
    }
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct WaitLog {
    /// The last wait of each name. Names are few and fixed.
    waits: Vec<Wait>,
    present: Option<&'static str>,
    /// Since when none is shown.
    none_since: Option<Instant>,
}

impl WaitLog {
    /// When the wait began that is shown.
    pub(super) fn began(&self) -> Option<Instant> {
        let present = self.present?;
        let wait = self.waits.iter().find(|wait| wait.on == present)?;
        Some(wait.began)
    }

    /// A wait of this name is shown. Returns the lines that are due.
    pub(super) fn shows(
        &mut self,
        now: Instant,
        on: &'static str,
        lasted: Lasted,
        figures: Figures,
    ) -> Vec<Line> {
        let mut lines = match self.none_since.take() {
            Some(since) if now >= since + OVER => self.end(now, figures, |_| true),
            None if !FOR_A_SESSION.contains(&on) => self.end(now, figures, |wait| {
                wait.on != on && now >= wait.shown_at + REPLACED
            }),
            _ => Vec::new(),
        };
        self.present = Some(on);
        let wait = self.shown(now, on, figures);
        if let Lasted::For(time) = lasted {
            wait.began = now.checked_sub(time).unwrap_or(now);
        }
        if wait.is_due(now) {
            (wait.is_logged, wait.logged_at) = (true, now);
            wait.lines += 1;
            lines.push(Line::Lasts {
                on,
                lasted: now - wait.began,
                figures,
            });
        }
        lines
    }

    /// No wait is shown. Returns the lines that are due.
    pub(super) fn shows_none(&mut self, now: Instant, figures: Figures) -> Vec<Line> {
        self.present = None;
        let since = *self.none_since.get_or_insert(now);
        if now < since + OVER {
            return Vec::new();
        }
        self.end(now, figures, |_| true)
    }

    /// There is a session that holds the lock. Returns the lines that are due, and whether the wait
    /// that is shown was the wait for it.
    pub(super) fn has_session(&mut self, now: Instant, figures: Figures) -> (Vec<Line>, bool) {
        let is_for_a_session = |on| FOR_A_SESSION.contains(&on);
        let was_shown = self.present.is_some_and(is_for_a_session);
        if was_shown {
            self.present = None;
        }
        (
            self.end(now, figures, |wait| is_for_a_session(wait.on)),
            was_shown,
        )
    }

    fn end(&mut self, now: Instant, figures: Figures, ends: impl Fn(&Wait) -> bool) -> Vec<Line> {
        self.waits
            .retain(|wait| !wait.is_over || now < wait.shown_at + FORGOTTEN);
        let open = self.waits.iter_mut().filter(|wait| !wait.is_over);
        open.filter(|wait| ends(wait))
            .filter_map(|wait| wait.over(figures))
            .collect()
    }

    /// The wait of this name, which begins `now` if there is none.
    fn shown(&mut self, now: Instant, on: &'static str, figures: Figures) -> &mut Wait {
        let known = self.waits.iter().position(|wait| wait.on == on);
        let at = known.unwrap_or_else(|| {
            self.waits.push(Wait {
                on,
                began: now,
                shown_at: now,
                is_over: true,
                published: 0,
                is_logged: false,
                lines: 0,
                logged_at: now,
            });
            self.waits.len() - 1
        });
        let wait = &mut self.waits[at];
        if wait.is_over {
            (wait.is_over, wait.began, wait.is_logged) = (false, now, false);
            wait.published = figures.published;
        }
        wait.shown_at = now;
        wait
    }
}

impl Line {
    /// The line in words.
    pub(super) fn text(&self) -> String {
        match self {
            Line::Lasts {
                on,
                lasted,
                figures,
            } => lasts(on, *lasted, figures),
            Line::Over {
                on,
                lasted,
                published,
            } => {
                let what = over(on);
                let time = time(*lasted);
                format!("{what} after {time}, {published} events published meanwhile")
            }
        }
    }
}

fn lasts(on: &str, lasted: Duration, figures: &Figures) -> String {
    let what = match on {
        LOCK => return "another instance publishes, waiting to take over".to_owned(),
        FOREIGN_LOCK => "a session that is not outboxd has kept this instance from publishing",
        "kafka" if !figures.kafka_has_answered => "no Kafka broker has answered",
        "kafka" => "Kafka has not acknowledged",
        "postgres" => "there has been no session with Postgres",
        "snapshot" => "the new slot has waited for open transactions",
        "decoding" => "the server has decoded changes of other tables and sent nothing",
        "write-back" => "published rows have not been marked",
        "standby" => "a standby has held events back",
        _ => "the publisher has waited",
    };
    let mut text = format!("{what} for {}, {} events held", time(lasted), figures.held);
    if let Some(lag) = figures.lag_bytes {
        text += &format!(", {} of WAL behind", bytes(lag));
    }
    text
}

fn over(on: &str) -> &str {
    match on {
        LOCK => "no other instance publishes any more",
        FOREIGN_LOCK => "the lock is free",
        "kafka" => "Kafka answers",
        "postgres" => "there is a session with Postgres",
        "snapshot" => "the new slot waits for no transaction any more",
        "decoding" => "the server sends changes",
        "write-back" => "rows are marked",
        "standby" => "no standby holds events back",
        _ => "the wait is over",
    }
}

/// The first minutes in seconds.
fn time(lasted: Duration) -> String {
    match lasted.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds => age(seconds as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIGURES: Figures = Figures {
        held: 120,
        published: 1_000,
        lag_bytes: None,
        kafka_has_answered: true,
    };

    /// A log on a clock that the test moves, and its lines so far.
    struct Clocked {
        log: WaitLog,
        start: Instant,
        millis: u64,
        figures: Figures,
        lines: Vec<(u64, String)>,
    }

    impl Clocked {
        fn new() -> Self {
            Clocked {
                log: WaitLog::default(),
                start: Instant::now(),
                millis: 0,
                figures: FIGURES,
                lines: Vec::new(),
            }
        }

        /// Shows what `at` says, four times a second, for this many seconds.
        fn runs(&mut self, seconds: u64, at: impl Fn(u64) -> Option<&'static str>) {
            let end = self.millis + seconds * 1_000;
            while self.millis < end {
                let now = self.start + Duration::from_millis(self.millis);
                let lines = match at(self.millis / 250) {
                    Some(on) => self.log.shows(now, on, Lasted::SinceNamed, self.figures),
                    None => self.log.shows_none(now, self.figures),
                };
                let second = self.millis / 1_000;
                let lines = lines.iter().map(|line| (second, line.text()));
                self.lines.extend(lines);
                self.millis += 250;
            }
        }

        fn seconds(&self) -> Vec<u64> {
            self.lines.iter().map(|(second, _)| *second).collect()
        }
    }

    #[test]
    fn a_wait_is_logged_after_five_seconds_at_growing_intervals_and_when_it_is_over() {
        let mut clocked = Clocked::new();
        clocked.runs(4, |_| Some("kafka"));
        clocked.runs(10, |_| None);
        assert_eq!(clocked.lines, [], "a short wait is not logged");
        clocked.runs(3 * 3_600, |_| Some("kafka"));
        let due = [5, 30, 60, 120, 300, 600, 1_800, 3_600, 7_200].map(|second| 14 + second);
        assert_eq!(clocked.seconds(), due);
        let first = &clocked.lines[0].1;
        assert_eq!(first, "Kafka has not acknowledged for 5 s, 120 events held");
        clocked.lines.clear();
        clocked.figures.published += 3_056;
        clocked.runs(60, |_| None);
        let over = "Kafka answers after 2 h, 3056 events published meanwhile";
        assert_eq!(clocked.lines, [(17 + 3 * 3_600, over.to_owned())]);
    }

    #[test]
    fn a_new_wait_is_logged_as_the_first_one_was() {
        let mut clocked = Clocked::new();
        clocked.runs(40, |_| Some("write-back"));
        clocked.runs(70, |_| None);
        clocked.lines.clear();
        clocked.runs(6, |_| Some("write-back"));
        let line = "published rows have not been marked for 5 s, 120 events held";
        assert_eq!(clocked.lines, [(115, line.to_owned())]);
    }

    #[test]
    fn waits_that_alternate_are_one_wait_each() {
        let mut clocked = Clocked::new();
        let names = ["write-back", "standby"];
        clocked.runs(600, |turn| Some(names[turn as usize % 2]));
        assert_eq!(
            clocked.seconds(),
            [5, 5, 30, 30, 60, 60, 120, 120, 300, 300]
        );
        // One of them goes on.
        clocked.lines.clear();
        clocked.runs(7, |_| Some("standby"));
        assert_eq!(
            clocked
                .lines
                .iter()
                .map(|(_, line)| line.as_str())
                .collect::<Vec<_>>(),
            [
                "a standby has held events back for 10 min, 120 events held",
                "rows are marked after 9 min, 0 events published meanwhile"
            ]
        );
    }

    #[test]
    fn a_wait_that_comes_and_goes_writes_ever_fewer_lines() {
        let mut clocked = Clocked::new();
        // Eight seconds of twelve.
        clocked.runs(3_600, |turn| (turn % 48 < 32).then_some("kafka"));
        let lines = clocked.lines.len();
        assert!((8..=16).contains(&lines), "{lines} lines in an hour");
        // Back within two seconds it is the same wait.
        let mut clocked = Clocked::new();
        clocked.runs(60, |turn| (turn % 8 == 0).then_some("kafka"));
        assert_eq!(clocked.seconds(), [6, 32]);
    }

    #[test]
    fn a_lost_session_does_not_end_the_wait_for_kafka() {
        let mut clocked = Clocked::new();
        clocked.runs(10, |_| Some("kafka"));
        clocked.runs(20, |_| Some("postgres"));
        let now = clocked.start + Duration::from_secs(30);
        let (lines, was_shown) = clocked.log.has_session(now, FIGURES);
        assert!(was_shown && clocked.log.began().is_none());
        clocked.lines.push((30, lines[0].text()));
        clocked.runs(10, |_| Some("kafka"));
        let lines: Vec<&str> = clocked
            .lines
            .iter()
            .map(|(_, line)| line.as_str())
            .collect();
        assert_eq!(
            lines,
            [
                "Kafka has not acknowledged for 5 s, 120 events held",
                "there has been no session with Postgres for 5 s, 120 events held",
                "there is a session with Postgres after 19 s, 0 events published meanwhile",
                "Kafka has not acknowledged for 30 s, 120 events held",
            ]
        );
    }

    #[test]
    fn a_standby_says_once_that_another_instance_publishes() {
        let mut clocked = Clocked::new();
        clocked.runs(7_200, |_| Some(LOCK));
        clocked.runs(4, |_| None);
        assert_eq!(clocked.seconds(), [0, 7_203]);
        let mut clocked = Clocked::new();
        clocked.runs(100, |_| Some(FOREIGN_LOCK));
        assert_eq!(clocked.seconds(), [0, 25, 55]);
    }

    #[test]
    fn a_broker_that_never_answered_and_the_lag_are_named() {
        let mut clocked = Clocked::new();
        clocked.figures.kafka_has_answered = false;
        clocked.figures.lag_bytes = Some(3 << 20);
        let (now, lasted) = (clocked.start, Lasted::For(Duration::from_secs(200)));
        let lines = clocked.log.shows(now, "kafka", lasted, clocked.figures);
        let texts: Vec<String> = lines.iter().map(Line::text).collect();
        let text = "no Kafka broker has answered for 3 min, 120 events held, 3.0 MiB of WAL behind";
        assert_eq!(texts, [text]);
    }
}
