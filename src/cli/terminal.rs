//! What a terminal can show: colours and its size.

use std::io::IsTerminal;

use terminal_size::{Height, Width, terminal_size};

/// Whether this stream gets colours: it is a terminal, and `NO_COLOR` is not set.
/// <https://no-color.org>
pub(crate) fn takes_colours(stream: &impl IsTerminal) -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !is_set("NO_COLOR")
}

/// The terminal's columns and lines; `None` where there is no terminal.
pub(crate) fn size() -> Option<(usize, usize)> {
    let (Width(columns), Height(lines)) = terminal_size()?;
    Some((columns.into(), lines.into()))
}
