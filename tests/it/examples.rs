//! The programs of `examples/` do what they say, and the crate of a service that only writes is
//! small.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::postgres;

const LIMIT: Duration = Duration::from_secs(60);

/// `cargo test` builds the examples into a folder beside that of the test programs.
fn example(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let profile = test.ancestors().nth(2).context("a folder of the profile")?;
    let path = profile.join("examples").join(name);
    let missing = || format!("{} is missing: cargo build --examples", path.display());
    path.is_file().then_some(()).with_context(missing)?;
    Ok(path)
}

fn text(output: &Output) -> String {
    let (stdout, stderr) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(stdout).into_owned() + &String::from_utf8_lossy(stderr)
}

#[tokio::test]
async fn the_examples_write_an_event_and_publish_it() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    let mut embed = Command::new(example("embed")?)
        .args([fixture.database.url(), &fixture.kafka.brokers()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(embed.stdout.take().context("no stdout")?).lines();

    let writer = Command::new(example("writer")?)
        .args([fixture.database.url(), &fixture.topic])
        .output();
    let written = tokio::time::timeout(LIMIT, writer).await??;
    ensure!(written.status.success(), "{}", text(&written));
    ensure!(
        text(&written).starts_with("order 1: event "),
        "{}",
        text(&written)
    );

    let published = async {
        while let Some(line) = lines.next_line().await? {
            if line == "Streaming, 1 published" {
                return Ok(());
            }
        }
        anyhow::bail!("embed ended before it published")
    };
    tokio::time::timeout(LIMIT, published).await??;
    fixture.database.all_marked(LIMIT).await?;
    let pid = embed.id().context("embed has ended")?.to_string();
    let interrupt = Command::new("kill").args(["-INT", &pid]).status().await?;
    ensure!(interrupt.success());
    let last = async {
        let mut last = None;
        while let Some(line) = lines.next_line().await? {
            last = Some(line);
        }
        anyhow::Ok((last, embed.wait_with_output().await?))
    };
    let (last, ended) = tokio::time::timeout(LIMIT, last).await??;
    ensure!(ended.status.success(), "{}", text(&ended));
    ensure!(last.as_deref() == Some("stopped"), "{last:?}");

    let records = fixture.kafka.consume_all(&[&fixture.topic]).await?;
    let values: Vec<_> = records.iter().map(|it| it.value.as_deref()).collect();
    ensure!(
        values == [Some(br#"{"number": 1}"#.as_slice())],
        "{values:?}"
    );
    Ok(())
}

/// What a service that only writes events must not have to build.
const NOT_FOR_WRITERS: [&str; 6] = [
    "rdkafka",
    "rdkafka-sys",
    "axum",
    "clap",
    "openssl",
    "openssl-sys",
];

async fn cargo(arguments: &[&str]) -> Result<String> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("writer-only");
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--locked", "--no-default-features"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_TARGET_DIR", target)
        .env("RUSTFLAGS", "-D warnings")
        .stdin(Stdio::null())
        .output()
        .await?;
    ensure!(output.status.success(), "{}", text(&output));
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test]
async fn without_its_features_the_crate_is_the_writer_and_builds_no_client() -> Result<()> {
    let tree = [
        "tree",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ];
    let tree = cargo(&tree).await?;
    let names: Vec<&str> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    ensure!(names.contains(&"tokio-postgres"), "{tree}");
    let found: Vec<_> = names
        .iter()
        .filter(|it| NOT_FOR_WRITERS.contains(it))
        .collect();
    ensure!(found.is_empty(), "{found:?} in {tree}");
    cargo(&["check", "--lib"]).await?;
    Ok(())
}
