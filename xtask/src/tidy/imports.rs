//! Which crate and which module may import which (DESIGN section 2, ARCHITECTURE.md).

use super::SourceFile;

/// Folders of our crates, each with the crates of ours that it may depend on.
const CRATES: &[(&str, &[&str])] = &[
    ("agent-ebpf", &[]),
    ("agent-supervisor", &[]),
    ("proto", &[]),
    ("controlplane", &["proto"]),
    // The store's files again.
    ("controlplane/simulation", &["proto"]),
    ("agent", &["proto", "agent-ebpf", "agent-supervisor"]),
    ("cli", &["agent", "agent-ebpf", "controlplane", "proto"]),
    (
        "tests",
        &["agent", "agent-ebpf", "controlplane", "proto", "cli"],
    ),
    ("xtask", &[]),
];

/// Modules of a crate from top to bottom: a module may import those of later rows, and none of its own
/// row. `lib`, and the composition root, may import all.
struct Layers {
    source: &'static str,
    root: &'static str,
    rows: &'static [&'static [&'static str]],
}

const LAYERS: &[Layers] = &[
    Layers {
        source: "controlplane/src/",
        root: "controller",
        rows: &[
            &["fuzzing"],
            &["api"],
            &["sync"],
            &["controllers"],
            &["scheduler"],
            &["cache"],
            &["admission", "extension"],
            &["dialer"],
            &["auth", "nodestream", "spdy"],
            &["usage"],
            &["registry"],
            &["patch"],
            &["schema"],
            &["kinds"],
            &["types"],
            &["store"],
        ],
    },
    Layers {
        source: "agent/src/",
        root: "agent",
        rows: &[
            &["fuzzing"],
            &["sync"],
            &["node"],
            &["pods"],
            &["volumes"],
            &["images", "runtime"],
            &["supervisor"],
            &["network"],
            &["dataplane", "dns", "health"],
            &["cluster", "userns"],
        ],
    },
];

/// Imports in a source file that its layer may not have.
pub(super) fn problems(file: &SourceFile) -> Vec<String> {
    let Some(layers) = LAYERS
        .iter()
        .find(|layers| file.path.starts_with(layers.source))
    else {
        return Vec::new();
    };
    let inside = &file.path[layers.source.len()..];
    let module = inside.split(['/', '.']).next().unwrap_or_default();
    if module == "lib" || module == layers.root || inside.contains("tests") {
        return Vec::new();
    }
    let row_of = |name: &str| layers.rows.iter().position(|row| row.contains(&name));
    let Some(own) = row_of(module) else {
        return vec![format!(
            "{}:1: module `{module}` has no place in the layers of tidy/imports.rs",
            file.path
        )];
    };
    let mut problems = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for (index, _) in code.match_indices("crate::") {
            let rest = &code[index + "crate::".len()..];
            let named = rest.trim_start_matches('{');
            let target: &str = named
                .split(|c: char| !(c.is_alphanumeric() || c == '_'))
                .next()
                .unwrap_or_default();
            let Some(row) = row_of(target) else { continue };
            if target != module && row <= own {
                problems.push(format!(
                    "{}:{}: `{module}` may not import `{target}`: it is not below it",
                    file.path,
                    number + 1
                ));
            }
        }
    }
    problems
}

/// Dependencies between our crates that are not allowed.
pub(super) fn manifest_problems(file: &SourceFile) -> Vec<String> {
    let Some((_, allowed)) = CRATES
        .iter()
        .find(|(folder, _)| file.path == format!("{folder}/Cargo.toml"))
    else {
        return Vec::new();
    };
    let mut problems = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
        let ours = CRATES
            .iter()
            .any(|(folder, _)| folder.rsplit('/').next() == Some(name));
        if ours && !allowed.contains(&name) && (line.contains("workspace") || line.contains("path"))
        {
            problems.push(format!(
                "{}:{}: may not depend on `{name}`",
                file.path,
                number + 1
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn the_store_may_not_know_the_registry() {
        let found = problems(&file(
            "controlplane/src/store/log.rs",
            "use crate::registry::Client;\n",
        ));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            problems(&file(
                "controlplane/src/registry/a.rs",
                "use crate::store::Store;\n"
            ))
            .is_empty()
        );
    }

    #[test]
    fn the_data_plane_may_not_know_pods() {
        assert_eq!(
            problems(&file(
                "agent/src/dataplane/plan.rs",
                "use crate::pods::Pod;\n"
            ))
            .len(),
            1
        );
    }

    #[test]
    fn controlplane_and_agent_never_meet() {
        let found = manifest_problems(&file("controlplane/Cargo.toml", "agent.workspace = true\n"));
        assert_eq!(found.len(), 1, "{found:?}");
    }
}
