//! The status page: what a person sees first, in the order in which it is asked.
//!
//! One sentence, then who this is, what flows, what could not be published, what went wrong, and
//! where the WAL stands. Self-contained: its style and script come from this server, and it needs
//! no other. Without the script the browser loads it again every five seconds. Every text from
//! outside is escaped.

mod chart;
mod parts;
mod text;

use std::fmt::Write;

use crate::http::page::text::{escape, in_code};
use crate::publisher::Status;
use crate::status::headline::{Headline, Level};

pub(super) const STYLE: &str = include_str!("page.css");
pub(super) const SCRIPT: &str = include_str!("page.js");

/// The whole page; `unready` is the reason why events do not get through, if they do not.
pub(super) fn render(status: &Status, unready: Option<&str>) -> String {
    let headline = Headline::of(status, unready);
    let text = escape(&headline.text);
    let level = match headline.level {
        Level::Healthy => "healthy",
        Level::Attention => "attention",
        Level::Bad => "bad",
    };
    let detail = headline
        .detail
        .map_or_else(String::new, |detail| format!("<p>{}</p>", in_code(&detail)));
    let mut sections = String::new();
    for (id, title, html) in parts::all(status) {
        let _ = write!(
            sections,
            "<section aria-labelledby=\"{id}-title\"><h2 id=\"{id}-title\">{title}</h2>\n\
             <div id=\"{id}\" data-part>{html}</div></section>\n"
        );
    }
    format!(
        "<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
<noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>
<title>{text} · outboxd {table}</title>
<link rel=\"icon\" href=\"data:,\">
<link rel=\"stylesheet\" href=\"/page.css\">
<script src=\"/page.js\" defer></script>
</head>
<body>
<p id=\"away\" role=\"alert\" hidden></p>
<main>
<header id=\"headline\" class=\"{level}\" role=\"status\" data-part><h1>{text}</h1>{detail}</header>
{sections}</main>
<footer>outboxd {version} · <a href=\"/status\">status</a> · <a href=\"/metrics\">metrics</a> ·
<a href=\"/livez\">livez</a> · <a href=\"/readyz\">readyz</a></footer>
</body>
</html>
",
        table = escape(&status.table),
        version = status.instance.version,
    )
}
