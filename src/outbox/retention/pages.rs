//! Which pages of the table the next step of a pass covers. Pure.
//!
//! A pass goes through the pages of each table once, in their order, so it needs no index and its
//! place is a number. A step covers so many pages that it takes some two milliseconds: a writer
//! that meets it waits no longer than the disk makes many commits wait. A step that was held up,
//! or has found all the rows that it may delete, is repeated with fewer. A single page that holds
//! a step up three times is passed over until the next pass. Pages that are added while the pass
//! runs have no row that is old.

use std::time::Duration;

/// The rows that one step deletes at most.
pub(super) const ROWS_MAX: i64 = 250;

const PAGES_FIRST: i64 = 16;
/// 16 MiB where a page has 8 KiB.
const PAGES_MAX: i64 = 2_048;

/// How often a page is tried that holds the step up.
const ATTEMPTS: u32 = 3;

/// A step that takes less is followed by a larger one.
const SHORT: Duration = Duration::from_micros(1_500);
/// A step that takes more is followed by a smaller one.
const LONG: Duration = Duration::from_micros(3_500);

/// A table without partitions, or a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) oid: u32,
    pub(super) pages: i64,
    /// It has dead letters, not events.
    pub(super) has_dead_letters: bool,
}

/// The pages of one step: those from `from`, without `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) leaf: Leaf,
    pub(super) from: i64,
    pub(super) to: i64,
}

/// What a step has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Swept {
    /// The rows that were to be deleted.
    pub(super) found: i64,
    /// Those that are deleted.
    pub(super) deleted: i64,
}

impl Swept {
    /// Whether the pages may have more rows to delete.
    pub(super) fn is_cut(self) -> bool {
        self.found >= ROWS_MAX && self.deleted > 0
    }
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct PageCursor {
    leaves: Vec<Leaf>,
    leaf: usize,
    page: i64,
    count: i64,
    /// How often the step over one page was held up.
    held_up: u32,
}

impl PageCursor {
    /// A pass over these, in this order. `count`: how many pages the first step covers.
    pub(super) fn new(leaves: Vec<Leaf>, count: Option<i64>) -> Self {
        let mut cursor = PageCursor {
            leaves,
            leaf: 0,
            page: 0,
            count: count.unwrap_or(PAGES_FIRST),
            held_up: 0,
        };
        cursor.skip_ended();
        cursor
    }

    /// How many pages the next step covers at most.
    pub(super) fn count(&self) -> i64 {
        self.count
    }

    /// The pages of the next step; `None` at the end of the pass.
    pub(super) fn range(&self) -> Option<Range> {
        let leaf = *self.leaves.get(self.leaf)?;
        Some(Range {
            leaf,
            from: self.page,
            to: (self.page + self.count).min(leaf.pages),
        })
    }

    /// The step over [`range`](PageCursor::range) has done this, in this time.
    pub(super) fn swept(&mut self, swept: Swept, took: Duration) {
        let Some(range) = self.range() else { return };
        if !swept.is_cut() {
            self.go_to(range.to);
        }
        if took > LONG || swept.is_cut() {
            self.count = (self.count / 2).max(1);
        } else if took < SHORT {
            self.count = (self.count * 2).min(PAGES_MAX);
        }
    }

    /// The step has deleted nothing because something was in its way. Returns whether it is given
    /// up: it was about one page.
    pub(super) fn held_up(&mut self) -> bool {
        let Some(range) = self.range() else {
            return false;
        };
        let pages = range.to - range.from;
        self.count = (pages / 2).max(1);
        self.held_up += u32::from(pages == 1);
        if self.held_up < ATTEMPTS {
            return false;
        }
        self.go_to(range.to);
        true
    }

    fn go_to(&mut self, page: i64) {
        (self.page, self.held_up) = (page, 0);
        self.skip_ended();
    }

    fn skip_ended(&mut self) {
        while let Some(leaf) = self.leaves.get(self.leaf)
            && self.page >= leaf.pages
        {
            (self.leaf, self.page) = (self.leaf + 1, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn leaf(oid: u32, pages: i64) -> Leaf {
        Leaf {
            oid,
            pages,
            has_dead_letters: false,
        }
    }

    fn some(found: i64) -> Swept {
        Swept {
            found,
            deleted: found,
        }
    }

    #[test]
    fn a_pass_covers_each_page_of_each_leaf_once_and_in_order() {
        let leaves = vec![leaf(1, 0), leaf(2, 5_000), leaf(3, 0), leaf(4, 7)];
        let mut cursor = PageCursor::new(leaves, None);
        let mut pages = Vec::new();
        let mut steps = 0;
        while let Some(range) = cursor.range() {
            let covered = (range.from..range.to).map(|page| (range.leaf.oid, page));
            pages.extend(covered);
            cursor.swept(some(3), if steps % 3 == 0 { MS * 50 } else { MS });
            steps += 1;
        }
        let expected = (0..5_000).map(|page| (2, page));
        let expected: Vec<_> = expected.chain((0..7).map(|page| (4, page))).collect();
        assert_eq!(pages, expected);
        assert!((5..50).contains(&steps), "{steps}");
    }

    #[test]
    fn a_step_is_repeated_while_it_deletes_all_that_it_may() {
        let mut cursor = PageCursor::new(vec![leaf(1, 100)], Some(64));
        cursor.swept(some(ROWS_MAX), MS);
        assert_eq!(cursor.range().map(|it| (it.from, it.to)), Some((0, 32)));
        cursor.swept(some(ROWS_MAX - 1), MS * 2);
        assert_eq!(cursor.range().map(|it| (it.from, it.to)), Some((32, 64)));
        // A table that refuses every deletion in silence does not hold the pass.
        let refused = Swept {
            found: ROWS_MAX,
            deleted: 0,
        };
        cursor.swept(refused, MS * 2);
        assert_eq!(cursor.range().map(|it| it.from), Some(64));
    }

    #[test]
    fn a_step_that_is_held_up_covers_half_and_one_page_is_passed_over() {
        let mut cursor = PageCursor::new(vec![leaf(1, 5)], Some(64));
        let mut ranges = Vec::new();
        while let Some(range) = cursor.range() {
            ranges.push((range.from, range.to));
            match (range.from..range.to).contains(&3) {
                true => _ = cursor.held_up(),
                false => cursor.swept(some(1), MS * 2),
            }
        }
        ranges.dedup();
        assert_eq!(ranges, [(0, 5), (0, 2), (2, 4), (2, 3), (3, 4), (4, 5)]);
    }
}
