//! How the delivery of one record ended.

use crate::kafka::DeliveryError;
use crate::outbox::OwnedRecord;

/// How the delivery of one record ended.
#[derive(Debug, Clone)]
pub(crate) struct DeliveryReport {
    /// The caller's number for the record, given to `send`.
    pub ticket: u64,
    /// `Ok` when the record was appended and acknowledged by all in-sync replicas, otherwise the
    /// reason.
    pub outcome: Result<(), DeliveryError>,
    /// The partition, or a negative number if none was chosen yet.
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests ask"))]
    pub partition: i32,
    /// See [`suspicion`](DeliveryReport::suspicion); the largest number stands for all above it.
    pub(crate) suspicion: u32,
    /// The record itself: present in each failure, and from a partition's first failure on in every
    /// report of that partition.
    pub(crate) record: Option<Box<OwnedRecord>>,
}

impl DeliveryReport {
    /// The number of the topic's last failure when the report was made; 0 if its partition was not
    /// suspect.
    pub(crate) fn suspicion(&self) -> u64 {
        match self.suspicion {
            u32::MAX => u64::MAX,
            number => u64::from(number),
        }
    }
}
