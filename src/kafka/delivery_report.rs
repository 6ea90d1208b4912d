//! How the delivery of one record ended.

use crate::kafka::DeliveryError;
use crate::outbox::OwnedRecord;

/// How the delivery of one record ended.
#[derive(Debug, Clone)]
pub struct DeliveryReport {
    /// The number that the record was sent with.
    pub ticket: u64,
    /// Appended and acknowledged by all in-sync replicas, or why not.
    pub outcome: Result<(), DeliveryError>,
    /// The partition, or a negative number where the record did not get as far as being given one.
    pub partition: i32,
    /// The record itself: of each that failed, and from the first failure of a partition on of all
    /// that it took.
    pub(crate) record: Option<Box<OwnedRecord>>,
}
