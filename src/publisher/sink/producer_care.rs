//! The state of the producer's replacement, and what the last producer failed of.

use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::config::Config;
use crate::kafka::{Producer, login_files_digest};

pub(super) const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Steady,
    /// The old producer's records come back.
    Withdrawing,
    /// The new producer is in place, and the old one closes its connections.
    Closing,
}

/// See the module's head.
#[derive(Debug)]
pub(in crate::publisher) struct ProducerCare {
    pub(super) step: Step,
    pub(super) retry: Backoff,
    pub(super) made_at: Instant,
    pub(super) purged_at: Instant,
    /// When the next producer may be made.
    pub(super) make_at: Instant,
    /// Why the last producer failed, until one works.
    pub(super) failure: Option<String>,
    /// When a replacement was last logged, while no producer works.
    pub(super) logged_at: Option<Instant>,
    pub(super) files_digest: u64,
    pub(super) files_at: Instant,
}

impl ProducerCare {
    /// For a producer that was just made.
    pub(super) fn new(config: &Config) -> Self {
        let now = Instant::now();
        ProducerCare {
            step: Step::Steady,
            retry: Backoff::new(RETRY_FIRST, RETRY_MAX),
            made_at: now,
            purged_at: now,
            make_at: now,
            failure: None,
            logged_at: None,
            files_digest: login_files_digest(config),
            files_at: now,
        }
    }

    /// Why the last producer failed, until one works.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// This many records were delivered.
    pub(super) fn delivered(&mut self, count: usize) {
        if count > 0 && self.failure.is_some() && self.step == Step::Steady {
            self.works();
        }
    }

    pub(super) fn works(&mut self) {
        (self.failure, self.logged_at) = (None, None);
        self.retry.reset();
    }

    /// Resolves when there may be reports to take, or the producer has to be tended. Cancel-safe.
    pub(super) async fn progressed(&mut self, producer: &mut Producer) {
        match self.step {
            Step::Closing => producer.alone().await,
            Step::Steady | Step::Withdrawing => producer.reported().await,
        }
    }
}
