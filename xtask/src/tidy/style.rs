//! Rules about single files: their names, their first line, what they may not contain.

use super::SourceFile;

/// Longest file; beyond it a newcomer does not know the room any more.
const MAX_LINES: usize = 900;

const FORBIDDEN_MODULES: &[&str] = &["utils", "util", "common", "helpers", "helper", "misc"];

pub(super) fn problems(file: &SourceFile) -> Vec<String> {
    let mut problems = Vec::new();
    let mut problem =
        |line: usize, what: String| problems.push(format!("{}:{line}: {what}", file.path));
    let opens = file
        .text
        .lines()
        .take(3)
        .any(|line| line.starts_with("//!"));
    if !opens {
        problem(
            1,
            "does not open with `//!` saying what it is for".to_owned(),
        );
    }
    let stem = file
        .path
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .trim_end_matches(".rs");
    if stem == "mod" {
        problem(1, "is a mod.rs: name the file after the module".to_owned());
    }
    for part in file.path.split('/') {
        let part = part.trim_end_matches(".rs");
        if FORBIDDEN_MODULES.contains(&part) {
            problem(1, format!("`{part}` says nothing about what is inside"));
        }
    }
    let lines = file.text.lines().count();
    if lines > MAX_LINES {
        problem(lines, format!("has {lines} lines, more than {MAX_LINES}"));
    }
    let test_file = stem == "tests"
        || stem == "fixtures"
        || file.path.contains("/tests/")
        || file.path.starts_with("tests/");
    let mut in_tests = test_file;
    for (number, line) in file.text.lines().enumerate() {
        let number = number + 1;
        if line.contains("#[cfg(test)]") {
            in_tests = true;
        }
        if line.contains(concat!("#[", "ignore")) {
            problem(number, "a test is ignored".to_owned());
        }
        if line.contains(concat!("TO", "DO")) || line.contains(concat!("FIX", "ME")) {
            problem(number, "a note to self: finish it or file it".to_owned());
        }
        if !in_tests && line.contains(".unwrap()") && !line.trim_start().starts_with("//") {
            problem(
                number,
                "unwrap() outside tests: return an error, or expect(\"why it cannot fail\")"
                    .to_owned(),
            );
        }
        if line.ends_with(' ') || line.ends_with('\t') {
            problem(number, "ends with white space".to_owned());
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        problems(&SourceFile {
            path: path.to_owned(),
            text: text.to_owned(),
        })
    }

    #[test]
    fn each_rule_finds_its_case() {
        assert_eq!(found("a/src/b.rs", "fn x() {}\n").len(), 1);
        assert_eq!(found("a/src/mod.rs", "//! x\n").len(), 1);
        assert_eq!(found("a/src/utils.rs", "//! x\n").len(), 1);
        assert_eq!(found("a/src/b.rs", "//! x\nlet y = z.unwrap();\n").len(), 1);
        assert_eq!(
            found("a/src/b.rs", &format!("//! x\n{}", "\n".repeat(1000))).len(),
            1
        );
    }

    #[test]
    fn tests_may_unwrap() {
        assert!(
            found(
                "a/src/b.rs",
                "//! x\n#[cfg(test)]\nmod tests { fn t() { x.unwrap(); } }\n"
            )
            .is_empty()
        );
    }
}
