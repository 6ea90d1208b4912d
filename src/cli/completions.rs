//! `completions` and `man`: what a shell and `man` know of the command line, printed for a package
//! or a person to install.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Command;
use clap_complete::Shell;

/// The arguments of `completions`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  outboxd completions bash > /etc/bash_completion.d/outboxd
  outboxd completions zsh > /usr/local/share/zsh/site-functions/_outboxd
  outboxd completions fish > /etc/fish/completions/outboxd.fish")]
pub(crate) struct Args {
    /// The shell to complete for
    shell: Shell,
}

/// Prints the script for this command line.
pub(crate) fn execute(args: Args, mut command: Command) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "outboxd", &mut script);
    io::stdout().write_all(&script)?;
    Ok(())
}

/// The arguments of `man`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  outboxd man > outboxd.1
  outboxd man /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Write a page for each command into this folder, instead of printing the first
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// Prints the page of `outboxd`, or writes all pages of this command line.
pub(crate) fn execute_man(args: ManArgs, command: Command) -> anyhow::Result<()> {
    let Some(folder) = args.folder else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        io::stdout().write_all(&page)?;
        return Ok(());
    };
    let place = folder.display().to_string();
    fs::create_dir_all(&folder).with_context(|| format!("cannot create the folder {place}"))?;
    clap_mangen::generate_to(command, &folder)
        .with_context(|| format!("cannot write the man pages to {place}"))
}
