//! The manual is true: README.md and each page of docs/ runs as it stands, block by block.
//!
//! A page gets servers of its own, and its `sh` and `sql` blocks run in their order, in one shell
//! environment. A comment on the line above a block may give it a [role](blocks::Role). Blocks of
//! settings and manifests are loaded or parsed, as are the files to deploy with; `rust` blocks are
//! doctests of the library, by way of `src/lib.rs`. `text` and `json` are output or drawings.

mod blocks;
mod checks;
mod deployment;
mod reference;
mod sql;
mod stage;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::support::wait::wait_until;
use blocks::Block;
use stage::Stage;

/// The pages with blocks that need servers; each has a test below.
const PAGES: [&str; 11] = [
    "README.md",
    "docs/dead-letters.md",
    "docs/managed-postgres.md",
    "docs/operations.md",
    "docs/peek-and-pause.md",
    "docs/replacing-a-poller.md",
    "docs/replay.md",
    "docs/retention.md",
    "docs/security.md",
    "docs/several-services.md",
    "docs/verify.md",
];

/// The pages whose `rust` blocks are doctests.
const DOCTESTS: [&str; 2] = ["README.md", "docs/library.md"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: impl AsRef<Path>) -> Result<String> {
    let path = root().join(name);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// All pages of the manual, by their paths from the root of the repository.
fn pages() -> Result<Vec<String>> {
    let entries = std::fs::read_dir(root().join("docs"))?;
    let paths = entries.map(|entry| Ok(entry?.path()));
    let paths: Vec<PathBuf> = paths.collect::<Result<_>>()?;
    let pages = paths
        .iter()
        .filter(|path| path.extension().is_some_and(|end| end == "md"));
    let names = pages.filter_map(|path| path.strip_prefix(root()).ok()?.to_str());
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.push("README.md".to_owned());
    names.sort_unstable();
    Ok(names)
}

fn blocks_of(page: &str) -> Result<Vec<Block>> {
    let blocks = blocks::parse(page, &read(page)?);
    blocks.map_err(|problems| anyhow::anyhow!("{}", problems.join("\n")))
}

/// Runs a page's blocks on servers of its own.
async fn run(page: &str) -> Result<Stage> {
    let blocks = blocks_of(page)?;
    let mut stage = Stage::set(&blocks).await?;
    for block in &blocks {
        stage.run(block).await.with_context(|| block.place())?;
    }
    Ok(stage)
}

#[tokio::test]
async fn the_readme_leads_from_a_server_to_a_published_event() -> Result<()> {
    let stage = run("README.md").await?;
    let limit = Duration::from_secs(30);
    wait_until("the event in Kafka", limit, async || {
        let count = stage.kafka().record_count(&["orders"]).await?;
        Ok(if count == 1 {
            Ok(())
        } else {
            Err(format!("{count} records"))
        })
    })
    .await?;
    stage.finish().await
}

#[tokio::test]
async fn the_page_on_dead_letters_runs() -> Result<()> {
    run("docs/dead-letters.md").await?.finish().await
}

#[tokio::test]
async fn the_page_on_managed_servers_runs() -> Result<()> {
    run("docs/managed-postgres.md").await?.finish().await
}

#[tokio::test]
async fn the_page_on_operations_runs() -> Result<()> {
    run("docs/operations.md").await?.finish().await
}

#[tokio::test]
async fn the_page_on_peek_and_pause_runs() -> Result<()> {
    run("docs/peek-and-pause.md").await?.finish().await
}

#[tokio::test]
async fn the_page_on_replacing_a_poller_runs() -> Result<()> {
    run("docs/replacing-a-poller.md").await?.finish().await
}

#[tokio::test]
async fn the_page_on_replay_runs() -> Result<()> {
    run("docs/replay.md").await?.finish().await
}

#[tokio::test]
async fn the_page_on_retention_runs() -> Result<()> {
    run("docs/retention.md").await?.finish().await
}

#[tokio::test]
async fn the_page_on_security_runs() -> Result<()> {
    run("docs/security.md").await?.finish().await
}

#[tokio::test]
async fn the_page_on_several_services_runs() -> Result<()> {
    run("docs/several-services.md").await?.finish().await
}

/// What a block prints is the block behind it.
#[tokio::test]
async fn the_page_on_verify_runs_and_shows_what_is_printed() -> Result<()> {
    let blocks = blocks_of("docs/verify.md")?;
    let mut stage = Stage::set(&blocks).await?;
    let mut compared = 0;
    for (at, block) in blocks.iter().enumerate() {
        stage.run(block).await.with_context(|| block.place())?;
        let next = blocks.get(at + 1).filter(|next| next.language == "text");
        if let Some(shown) = next {
            assert_eq!(stage.printed(block).await?, shown.text, "{}", shown.place());
            compared += 1;
        }
    }
    assert_eq!(compared, 2);
    stage.finish().await
}

#[test]
fn every_page_that_needs_servers_has_its_test() -> Result<()> {
    let mut found = BTreeSet::new();
    for page in pages()? {
        if blocks_of(&page)?.iter().any(Block::needs_servers) {
            found.insert(page);
        }
    }
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(found, PAGES);
    Ok(())
}

#[test]
fn every_block_that_needs_no_server_is_valid() -> Result<()> {
    let mut problems = Vec::new();
    for page in pages()? {
        for block in blocks_of(&page)? {
            if let Err(error) = checks::check(&block) {
                problems.push(format!("{}: {error:#}", block.place()));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

#[test]
fn every_rust_block_is_a_doctest() -> Result<()> {
    let library = read("src/lib.rs")?;
    for page in pages()? {
        let has_rust = blocks_of(&page)?.iter().any(|it| it.language == "rust");
        ensure!(
            !has_rust || DOCTESTS.contains(&page.as_str()),
            "{page} has rust"
        );
    }
    for page in DOCTESTS {
        let included = format!("include_str!(\"../{page}\")");
        ensure!(
            library.contains(&included),
            "src/lib.rs does not include {page}"
        );
    }
    Ok(())
}
