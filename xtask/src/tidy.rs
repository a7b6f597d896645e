//! The rules of the tree that no compiler holds, as a test and as part of `cargo xtask check`.
//!
//! Each rule is a pure function from a file to its problems; [`check`] walks the tree.

mod imports;
mod style;

use std::path::{Path, PathBuf};

/// One file as the rules see it.
#[derive(Debug)]
pub(crate) struct SourceFile {
    /// Relative to the workspace, with forward slashes.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Every broken rule below `root`, one line each: `path:line: what`.
pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut files = Vec::new();
    collect(root, root, &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let mut problems = Vec::new();
    for file in &files {
        if file.path.ends_with(".rs") {
            problems.extend(style::problems(file));
            problems.extend(imports::problems(file));
        }
        if file.path.ends_with("Cargo.toml") {
            problems.extend(imports::manifest_problems(file));
        }
    }
    Ok(problems)
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<SourceFile>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path: PathBuf = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                collect(root, &path, files)?;
            }
        } else if name.ends_with(".rs") || name == "Cargo.toml" {
            let relative = path
                .strip_prefix(root)?
                .to_string_lossy()
                .replace('\\', "/");
            files.push(SourceFile {
                path: relative,
                text: std::fs::read_to_string(&path)?,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    #[test]
    fn the_tree_is_tidy() {
        let problems = super::check(&crate::run::workspace_root()).unwrap();
        assert!(problems.is_empty(), "\n{}", problems.join("\n"));
    }
}
