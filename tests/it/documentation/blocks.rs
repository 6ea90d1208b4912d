//! The fenced blocks of a page, each with its language and its role.

use crate::support::provider::Provider;

/// What a block needs beyond its language: `<!-- test: … -->` on the line above its fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A process that goes on until the page, or the next such block, ends it.
    Background,
    /// Runs after the process in the background was stopped.
    Stopped,
    /// Needs a Docker daemon.
    Docker,
    /// Builds the project: only the command line is checked.
    Build,
    /// Statements for a managed server: run on its simulation by its administrator.
    Provider(Provider),
    /// The same, which the provider's own server allows its administrator, and a real Postgres a
    /// superuser.
    Allowed(Provider),
    /// Changes settings of the server that need a restart, which follows.
    Restart,
}

/// One fenced block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) page: String,
    /// The line of its fence.
    pub(super) line: usize,
    pub(super) language: String,
    pub(super) role: Option<Role>,
    pub(super) text: String,
}

const LANGUAGES: [&str; 7] = ["sh", "sql", "toml", "rust", "yaml", "text", "json"];

impl Block {
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.page, self.line)
    }

    /// Whether it runs on servers.
    pub(super) fn needs_servers(&self) -> bool {
        let is_run = matches!(self.language.as_str(), "sh" | "sql");
        is_run && !matches!(self.role, Some(Role::Build | Role::Docker))
    }
}

impl Role {
    fn parse(text: &str) -> Option<Role> {
        Some(match text {
            "background" => Role::Background,
            "stopped" => Role::Stopped,
            "needs docker" => Role::Docker,
            "needs build" => Role::Build,
            "restart" => Role::Restart,
            other => match other.strip_prefix("allowed on ") {
                Some(name) => Role::Allowed(Provider::of_name(name)?),
                None => Role::Provider(Provider::of_name(other.strip_prefix("on ")?)?),
            },
        })
    }

    fn fits(self, language: &str) -> bool {
        match self {
            Role::Background | Role::Stopped | Role::Docker | Role::Build => language == "sh",
            Role::Provider(_) | Role::Allowed(_) | Role::Restart => language == "sql",
        }
    }
}

/// The blocks of a page in their order, or everything that is wrong with them.
pub(super) fn parse(page: &str, text: &str) -> Result<Vec<Block>, Vec<String>> {
    let (mut blocks, mut problems) = (Vec::new(), Vec::new());
    let mut lines = text.lines().enumerate();
    let mut above = "";
    while let Some((number, line)) = lines.next() {
        let line_number = number + 1;
        let mut problem = |what: &str| problems.push(format!("{page}:{line_number}: {what}"));
        let Some(info) = line.trim_start().strip_prefix("```") else {
            if above.trim().is_empty() && line.starts_with("    ") && !line.trim().is_empty() {
                problem("an indented block; use a fence with a language");
            }
            above = line;
            continue;
        };
        let language = info.split(',').next().unwrap_or_default().trim();
        if !LANGUAGES.contains(&language) {
            problem(&format!(
                "the language \"{language}\" is none of {LANGUAGES:?}"
            ));
        }
        let role = above.trim().strip_prefix("<!-- test:");
        let role = role
            .and_then(|role| role.strip_suffix("-->"))
            .map(str::trim);
        let role = role.and_then(|name| {
            let role = Role::parse(name).filter(|role| role.fits(language));
            if role.is_none() {
                problem(&format!("a block of {language} has no role \"{name}\""));
            }
            role
        });
        let mut text = String::new();
        let mut is_closed = false;
        for (_, line) in lines.by_ref() {
            is_closed = line.trim() == "```";
            if is_closed {
                break;
            }
            text.push_str(line);
            text.push('\n');
        }
        if !is_closed {
            problem("the block does not end");
        }
        blocks.push(Block {
            page: page.to_owned(),
            line: line_number,
            language: language.to_owned(),
            role,
            text,
        });
        above = "";
    }
    let stray = text.matches("<!-- test:").count();
    if stray != blocks.iter().filter(|block| block.role.is_some()).count() && problems.is_empty() {
        problems.push(format!(
            "{page}: a role does not stand directly above a fence"
        ));
    }
    if problems.is_empty() {
        Ok(blocks)
    } else {
        Err(problems)
    }
}

#[test]
fn a_block_without_a_language_or_with_an_unknown_role_is_refused() {
    let page =
        "Text.\n\n<!-- test: restart -->\n```sql\nSELECT 1;\n```\n\n```rust,no_run\nx\n```\n";
    let blocks = parse("a.md", page).unwrap();
    assert_eq!(blocks.len(), 2);
    assert_eq!(blocks[0].role, Some(Role::Restart));
    assert_eq!(
        (blocks[0].line, blocks[0].text.as_str()),
        (4, "SELECT 1;\n")
    );
    assert_eq!(blocks[1].language, "rust");
    let wrong = [
        "```\nx\n```\n",
        "```perl\nx\n```\n",
        "<!-- test: sometimes -->\n```sh\nx\n```\n",
        "<!-- test: restart -->\n```sh\nx\n```\n",
        "<!-- test: restart -->\n\n```sql\nx\n```\n",
        "```sh\nx\n",
        "Text.\n\n    indented\n",
    ];
    for page in wrong {
        assert_eq!(parse("a.md", page).unwrap_err().len(), 1, "{page}");
    }
}
