//! The text formats of a page of metrics, and which of them a scraper asks for.
//!
//! OpenMetrics is served to a scraper that prefers it, and the text format 0.0.4 of Prometheus to
//! everything else, such as curl and older agents. prometheus-client writes OpenMetrics alone; the
//! two differ in what follows. In 0.0.4 a counter has the name of its sample, there are no units,
//! and nothing marks the end.
//! See <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::collections::HashSet;

/// A text format of a page of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextFormat {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format 0.0.4 of Prometheus.
    Prometheus,
}

impl TextFormat {
    /// The format that a request with this header `Accept` prefers.
    pub fn accepted(accept: &str) -> Self {
        let mut open_metrics = 0.0;
        let mut text: f64 = 0.0;
        for range in accept.split(',') {
            let (name, parameters) = range.split_once(';').unwrap_or((range, ""));
            let parameter = |wanted: &str| {
                parameters.split(';').find_map(|parameter| {
                    let (name, value) = parameter.split_once('=')?;
                    let is_wanted = name.trim().eq_ignore_ascii_case(wanted);
                    is_wanted.then(|| value.trim().trim_matches('"'))
                })
            };
            let quality = parameter("q").map_or(1.0, |value| value.parse().unwrap_or(0.0));
            match name.trim().to_ascii_lowercase().as_str() {
                "application/openmetrics-text" => {
                    if matches!(parameter("version"), None | Some("0.0.1" | "1.0.0")) {
                        open_metrics = f64::max(open_metrics, quality);
                    }
                }
                "text/plain" => text = text.max(quality),
                _ => {}
            }
        }
        // A scraper that ranks both alike understands both.
        if open_metrics > 0.0 && open_metrics >= text {
            TextFormat::OpenMetrics
        } else {
            TextFormat::Prometheus
        }
    }

    /// The header `Content-Type` of a page in this format.
    pub fn content_type(self) -> &'static str {
        match self {
            TextFormat::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            TextFormat::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// A page of OpenMetrics in the text format 0.0.4.
pub(super) fn to_prometheus(open_metrics: &str) -> String {
    let counter = |line: &'_ str| {
        let name = line.strip_prefix("# TYPE ")?.strip_suffix(" counter")?;
        Some(name.to_owned())
    };
    let counters: HashSet<String> = open_metrics.lines().filter_map(counter).collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(keyword @ ("HELP" | "TYPE")), Some(name), Some(rest)) => {
                let total = if counters.contains(name) {
                    "_total"
                } else {
                    ""
                };
                let rest = if rest == "unknown" { "untyped" } else { rest };
                text.push_str(&format!("# {keyword} {name}{total} {rest}"));
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_that_the_request_prefers() {
        let open_metrics = [
            "application/openmetrics-text",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;\
             version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "text/plain; q=0.5, Application/OpenMetrics-Text; Version=\"1.0.0\"",
        ];
        for accept in open_metrics {
            assert_eq!(
                TextFormat::accepted(accept),
                TextFormat::OpenMetrics,
                "{accept}"
            );
        }
        let text = [
            "",
            "*/*",
            "text/plain",
            "text/html,application/xhtml+xml,*/*;q=0.8",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;version=2.0.0",
            "application/openmetrics-text;q=0.2,text/plain;q=0.9",
            "application/openmetrics-text;q=often",
        ];
        for accept in text {
            assert_eq!(
                TextFormat::accepted(accept),
                TextFormat::Prometheus,
                "{accept}"
            );
        }
    }

    #[test]
    fn counters_get_the_names_of_their_samples_and_nothing_marks_the_end() {
        let page = "# HELP events Events by outcome.\n# TYPE events counter\n\
                    events_total{text=\"# TYPE lag counter\"} 2\n\
                    # HELP lag How far.\n# TYPE lag gauge\n# UNIT lag bytes\nlag 3\n\
                    # HELP odd Of no type.\n# TYPE odd unknown\nodd 4\n# EOF\n";
        assert_eq!(
            to_prometheus(page),
            "# HELP events_total Events by outcome.\n# TYPE events_total counter\n\
             events_total{text=\"# TYPE lag counter\"} 2\n\
             # HELP lag How far.\n# TYPE lag gauge\nlag 3\n\
             # HELP odd Of no type.\n# TYPE odd untyped\nodd 4\n"
        );
    }
}
