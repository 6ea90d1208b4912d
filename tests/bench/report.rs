//! The results of a run: printed as they come, and written to a folder if one is named.

use std::fmt::{Display, Write as _};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// Text and plots.
#[derive(Debug, Default)]
pub(crate) struct Report {
    folder: Option<PathBuf>,
    text: String,
}

impl Report {
    /// A report that is also written to `folder`, if there is one.
    pub(crate) fn new(folder: Option<PathBuf>) -> Report {
        Report {
            folder,
            text: String::new(),
        }
    }

    /// Adds a piece of text.
    pub(crate) fn add(&mut self, piece: impl Display) -> Result<()> {
        println!("{piece}");
        writeln!(self.text, "{piece}")?;
        self.save("README.md", &self.text)
    }

    /// Adds a plot.
    pub(crate) fn plot(&mut self, name: &str, svg: &str) -> Result<()> {
        if self.folder.is_none() {
            return Ok(());
        }
        self.save(name, svg)?;
        self.add(format!("![{name}]({name})\n"))
    }

    fn save(&self, name: &str, text: &str) -> Result<()> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        let path = folder.join(name);
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}
