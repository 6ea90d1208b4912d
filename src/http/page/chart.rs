//! Small line charts of the last fifteen minutes, as inline SVG with a text for screen readers.

use std::fmt::Write;
use std::time::Duration;

use crate::format::age;
use crate::status::history::{INTERVAL, REACH};

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 70.0;
/// The shortest chart.
const REACH_LEAST: Duration = Duration::from_secs(60);

/// One line: values by the time at which they were taken.
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) points: Vec<(Duration, f64)>,
}

/// A chart of one quantity.
pub(super) struct Chart {
    pub(super) title: &'static str,
    pub(super) lines: Vec<Line>,
    /// A value in words.
    pub(super) shown: fn(f64) -> String,
}

impl Chart {
    /// As a `figure`. `now` is the right edge, and the time since the start: a young process has a
    /// shorter chart.
    pub(super) fn render(&self, now: Duration) -> String {
        let reach = now.clamp(REACH_LEAST, REACH);
        let since = age(reach.as_secs_f64());
        let highest = self.highest();
        let mut paths = String::new();
        for (at, line) in self.lines.iter().enumerate() {
            let path = path(&line.points, now, reach, highest);
            let _ = write!(paths, "<path class=\"line l{at}\" d=\"{path}\"/>");
        }
        let legend: Vec<String> = self.lines.iter().map(|line| self.last(line)).collect();
        let legend = legend.join(", ");
        let is_empty = self.lines.iter().all(|line| line.points.is_empty());
        let top = match is_empty {
            true => "–".to_owned(),
            false => (self.shown)(highest),
        };
        let title = self.title;
        format!(
            "<figure><figcaption>{title} <b>{legend}</b></figcaption>\
             <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" \
             aria-label=\"{title} over the last {since}: now {legend}; at most {top}\">\
             <path class=\"axis\" d=\"M0 {HEIGHT}H{WIDTH}M0 0H{WIDTH}\"/>{paths}</svg>\
             <p class=\"scale\"><span>{since} ago</span><span>at most {top}</span>\
             <span>now</span></p></figure>\n"
        )
    }

    fn highest(&self) -> f64 {
        let values = self.lines.iter().flat_map(|line| &line.points);
        values.map(|(_, value)| *value).fold(0.0, f64::max)
    }

    fn last(&self, line: &Line) -> String {
        let value = line.points.last().map(|(_, value)| (self.shown)(*value));
        let value = value.unwrap_or_else(|| "–".to_owned());
        match line.name {
            "" => value,
            name => format!("{name} {value}"),
        }
    }
}

/// A gap where samples are missing: nothing was measured then.
fn path(points: &[(Duration, f64)], now: Duration, reach: Duration, highest: f64) -> String {
    let mut path = String::new();
    let mut last: Option<Duration> = None;
    for (at, value) in points {
        let ago = now.saturating_sub(*at).as_secs_f64() / reach.as_secs_f64();
        if ago > 1.0 {
            continue;
        }
        let share = if highest > 0.0 { value / highest } else { 0.0 };
        let (x, y) = (WIDTH * (1.0 - ago), HEIGHT * (1.0 - share));
        let follows = last.is_some_and(|last| at.saturating_sub(last) < INTERVAL * 3);
        let command = if follows { 'L' } else { 'M' };
        let _ = write!(path, "{command}{x:.1} {y:.1}");
        if !follows {
            // A line of its own length, so that a single sample shows as a dot.
            let _ = write!(path, "h.1");
        }
        last = Some(*at);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, value: f64) -> (Duration, f64) {
        (Duration::from_secs(seconds), value)
    }

    #[test]
    fn a_line_has_a_gap_where_nothing_was_measured() {
        let points = [at(0, 1.0), at(5, 2.0), at(60, 4.0)];
        let path = path(&points, Duration::from_secs(60), REACH, 4.0);
        assert_eq!(path, "M280.0 52.5h.1L281.7 35.0M300.0 0.0h.1");
    }

    #[test]
    fn what_is_older_than_the_chart_is_left_out_and_no_value_is_no_line() {
        assert_eq!(
            path(&[at(0, 1.0)], Duration::from_secs(901), REACH, 1.0),
            ""
        );
        let chart = Chart {
            title: "lag",
            lines: vec![Line {
                name: "",
                points: Vec::new(),
            }],
            shown: |value| format!("{value} x"),
        };
        let html = chart.render(Duration::from_secs(9));
        assert!(html.contains("lag <b>–</b>"), "{html}");
        assert!(html.contains("now –; at most –"), "{html}");
    }
}
