//! The notices of a server: its warnings are logged, once a minute for each SQLSTATE.

use std::time::Instant;

use crate::line_limit::LineLimit;
use crate::replication::error_fields::error_of_fields;

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Notices(LineLimit);

impl Notices {
    /// The body of a NoticeResponse from this server.
    pub(crate) fn log(&mut self, server: &str, body: &[u8]) {
        let notice = error_of_fields(body);
        if notice.severity != "WARNING" {
            return;
        }
        if let Some(suppressed) = self.0.admit(&notice.code, Instant::now()) {
            let (code, notice) = (notice.code, notice.message);
            tracing::warn!(%server, %code, %notice, suppressed, "postgres sent a warning");
        }
    }
}
