//! (stand-in)

#[derive(clap::Args)]
pub struct Args {}

pub async fn execute(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
