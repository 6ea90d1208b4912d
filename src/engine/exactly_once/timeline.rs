//! Where a server's history left an earlier timeline. Pure.
//!
//! The history file of a timeline has a line for each of its ancestors: the ancestor, the position
//! up to which they share the WAL, and why, separated by white space.
//! <https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-TIMELINES>

use crate::lsn::Lsn;

/// The position up to which the history shares the WAL of `ancestor`; `None` if it is none.
pub(crate) fn switched_at(history: &str, ancestor: u32) -> Option<Lsn> {
    history.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let timeline: u32 = words.next()?.parse().ok()?;
        (timeline == ancestor).then(|| words.next()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ancestor_is_left_where_its_line_says() {
        let history = "1\t0/60006B0\tno recovery target specified\n\n\
                       # a comment\n3\t1/A0\tbefore 2026-01-01 00:00:00+00\n";
        for (ancestor, expected) in [
            (1, Some(Lsn::new(0x600_06B0))),
            (3, Some(Lsn::new(0x1_0000_00A0))),
            (2, None),
        ] {
            assert_eq!(switched_at(history, ancestor), expected, "{ancestor}");
        }
        assert_eq!(switched_at("", 1), None);
        assert_eq!(switched_at("1\tnowhere", 1), None);
    }
}
