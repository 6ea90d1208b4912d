//! `demo`'s output: aligned columns, coloured at a terminal and plain elsewhere.

use std::io::{self, Write};
use std::time::Duration;

use outboxd::format::bytes;

use crate::cli::demo::tally::{Order, Tally};
use crate::cli::terminal;

/// Above this rate, events are summarized once per second.
const EACH_MAX: u32 = 20;

/// Standard output. Each line is written at once; a closed pipe is an error like any other.
pub(crate) struct Screen {
    colours: bool,
    each: bool,
}

impl Screen {
    /// A screen for this rate of events.
    pub(crate) fn new(rate: u32) -> Self {
        Screen {
            colours: terminal::takes_colours(&io::stdout()),
            each: rate <= EACH_MAX,
        }
    }

    /// Whether each event gets a line.
    pub(crate) fn shows_each(&self) -> bool {
        self.each
    }

    /// Prints a started component or a result.
    pub(crate) fn fact(&self, name: &str, text: &str) -> io::Result<()> {
        self.line(BOLD, &format!("{name:<20}"), text)
    }

    pub(crate) fn blank(&self) -> io::Result<()> {
        self.line(NONE, "", "")
    }

    /// Prints the column heads.
    pub(crate) fn heads(&self) -> io::Result<()> {
        let heads = if self.each {
            format!(
                "{:>6}  {:<14} {:>9} {:>7} {:>18} {:>10}",
                "order", "event", "partition", "offset", "commit to consumer", "slot lag"
            )
        } else {
            format!(
                "{:>9} {:>8} {:>8} {:>10} {:>10} {:>10}",
                "published", "events/s", "waiting", "p50", "p99", "slot lag"
            )
        };
        self.line(BOLD, &heads, "")
    }

    /// Prints an event that has arrived.
    pub(crate) fn event(&self, event: &Event<'_>) -> io::Result<()> {
        let Event {
            number,
            event_type,
            partition,
            offset,
            latency,
            lag,
        } = event;
        let latency = millis(*latency);
        let lag = bytes(*lag);
        let text = format!(
            "{number:>6}  {event_type:<14} {partition:>9} {offset:>7} {latency:>18} {lag:>10}"
        );
        self.line(NONE, "", &text)
    }

    /// Prints an order that was rolled back.
    pub(crate) fn rolled_back(&self, order: &Order) -> io::Result<()> {
        if let (true, Order::RolledBack { number, events }) = (self.each, order) {
            let event_type = events.first().map_or("", |(_, event_type)| event_type);
            let text = format!("{number:>6}  {event_type:<14} rolled back: nothing is sent");
            return self.line(DIM, &text, "");
        }
        Ok(())
    }

    /// Prints the summary of a second.
    pub(crate) fn second(&self, tally: &Tally, arrived: u64, lag: i64) -> io::Result<()> {
        let [p50, p99, _] = tally
            .latencies(arrived as usize)
            .unwrap_or_default()
            .map(millis);
        let (all, waiting, lag) = (tally.arrived, tally.waiting(), bytes(lag));
        let text = format!("{all:>9} {arrived:>8} {waiting:>8} {p50:>10} {p99:>10} {lag:>10}");
        self.line(NONE, "", &text)
    }

    fn line(&self, style: &str, styled: &str, plain: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.colours && !style.is_empty() {
            writeln!(out, "{style}{styled}{RESET}{plain}")?;
        } else {
            writeln!(out, "{}", format!("{styled}{plain}").trim_end())?;
        }
        out.flush()
    }
}

/// An event that has arrived.
pub(crate) struct Event<'a> {
    pub(crate) number: u64,
    pub(crate) event_type: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) latency: Duration,
    pub(crate) lag: i64,
}

const NONE: &str = "";
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// `2.1 ms`.
pub(crate) fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_short() {
        assert_eq!(millis(Duration::from_micros(2149)), "2.1 ms");
    }
}
