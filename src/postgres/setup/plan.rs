//! The plan: for each thing that is wanted, whether it is there, missing, unrelated, or
//! beyond the rights of the session's role. Pure, and made before the first change.

use crate::postgres::setup::found::Found;
use crate::postgres::setup::part::Part;
use crate::postgres::setup::wanted::Setup;
use crate::postgres::setup::{functions, indexes, objects, roles};

/// Everything that is wanted, in the order in which it is made.
pub(super) fn plan(setup: &Setup<'_>, found: &Found) -> Vec<Part> {
    let table = &setup.config.table;
    let mut parts = vec![objects::schema(setup, found), objects::table(setup, found)];
    if let Some(shape) = found.shape_or_assumed(setup) {
        parts.extend(indexes::parts(found, table, &shape));
    }
    if setup.checks && setup.is_conventional() {
        parts.push(objects::checks(setup, found));
    }
    parts.push(objects::dead_letters(setup, found));
    parts.push(objects::state(setup, found));
    if setup.is_conventional() {
        parts.extend(functions::parts(setup, found));
    }
    parts.extend(objects::publication(setup, found));
    parts.extend(roles::parts(setup, found));
    parts
}
