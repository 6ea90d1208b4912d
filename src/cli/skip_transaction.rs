//! `skip-transaction`: skips a transaction that Postgres cannot decode.
//!
//! The publisher names the transaction in the error that ends it. A person decides, since the
//! server may be repairable instead.

use std::io::{self, Write};

use outboxd::config::{Config, Settings};
use outboxd::lsn::Lsn;
use outboxd::publisher::skip_transaction;

/// The arguments of `skip-transaction`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  outboxd skip-transaction --lsn 16/B374D848")]
pub(crate) struct Args {
    /// The transaction's commit LSN, from the publisher's error
    #[arg(long, value_name = "LSN")]
    lsn: Lsn,

    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// Skips it.
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
        "recorded  {rows} unpublished rows of it, which the next start reads from the table"
    )?;
    Ok(())
}
