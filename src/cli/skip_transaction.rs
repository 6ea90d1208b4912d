//! `skip-transaction`: passes a transaction that Postgres itself cannot decode.
//!
//! The publisher names it when it ends because of it. Only a person can know whether the server can be mended instead.

use std::io::{self, Write};

use outboxd::config::{Config, Settings};
use outboxd::lsn::Lsn;
use outboxd::publisher::skip_transaction;

/// The arguments of `skip-transaction`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where its commit is, as the publisher's error says
    #[arg(long, value_name = "LSN")]
    lsn: Lsn,

    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// Passes it.
pub(crate) async fn execute(args: Args) -> anyhow::Result<()> {
    let config = Config::without_kafka(args.settings)?;
    let skipped = skip_transaction(&config, args.lsn).await?;
    let (lsn, xid, rows) = (args.lsn, skipped.xid, skipped.rows);
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "skipped   transaction {xid}, committed at {lsn}: {}",
        skipped.error
    )?;
    writeln!(
        out,
        "filed     {rows} unpublished rows of it, which the next start reads from the table"
    )?;
    Ok(())
}
