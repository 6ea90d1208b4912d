//! (stand-in)

use outboxd::config::Settings;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub settings: Settings,
}

pub async fn execute(args: Args) -> anyhow::Result<()> {
    // `without_kafka`: as `from_settings`, but KAFKA_BROKERS may be missing.
    let _config = outboxd::config::Config::without_kafka(args.settings)?;
    anyhow::bail!("not built yet")
}
