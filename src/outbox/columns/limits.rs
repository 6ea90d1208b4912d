//! How long a value may be so that it is read.

use crate::outbox::columns::meaning::Meaning;
use crate::outbox::select_list::{Limit, Printing};

/// No other column than the payload makes a record with a longer value; the engine's own limits are
/// below.
const OTHER_BYTES_MAX: usize = (2 << 20) + HEX_PREFIX;

/// The bytes of `\\x`, which a printed `bytea` begins with.
const HEX_PREFIX: usize = 2;

/// A time of creation that prints longer is no time, and is left out of the record's headers.
pub(super) const CREATED_BYTES_MAX: usize = 1024;

/// The limit of a column with these meanings.
pub(super) fn limit(meanings: &[Meaning], printing: Printing, payload_bytes_max: usize) -> Limit {
    if *meanings == [Meaning::Created] {
        return Limit::Silent(CREATED_BYTES_MAX);
    }
    if !meanings.contains(&Meaning::Payload) {
        return Limit::Shown(OTHER_BYTES_MAX);
    }
    match printing {
        Printing::Hex => Limit::Shown(
            payload_bytes_max
                .saturating_mul(2)
                .saturating_add(HEX_PREFIX),
        ),
        _ => Limit::Shown(payload_bytes_max),
    }
}
