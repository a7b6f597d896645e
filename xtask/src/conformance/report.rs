//! From the suite's JUnit files to a table. Pure.

use std::fmt::Write as _;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    Failed,
    Passed,
}

/// A test that ran.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    pub(super) outcome: Outcome,
    pub(super) name: String,
    /// The first line of why it failed.
    pub(super) why: String,
}

/// The tests in a file that ginkgo's reporter wrote; those that were not meant are in it as skipped.
pub(super) fn rows(junit: &str) -> Vec<Row> {
    junit
        .split("<testcase ")
        .skip(1)
        .filter_map(|text| {
            let text = text.split("</testcase>").next()?;
            let (head, body) = text.split_once('>')?;
            if body.contains("<skipped") {
                return None;
            }
            let name = plain(head.split_once("name=\"")?.1.split('"').next()?);
            let failure = body
                .split_once("<failure")
                .and_then(|(_, rest)| rest.split_once('>'));
            let why = failure.map(|(_, text)| {
                let text = text.split("</failure>").next().unwrap_or_default();
                let text = plain(text);
                let mut lines = text.lines().map(str::trim).filter(|line| {
                    // Where it was thrown comes first.
                    !line.is_empty() && !line.starts_with('/')
                });
                lines.next().unwrap_or_default().to_owned()
            });
            Some(Row {
                outcome: match why {
                    Some(_) => Outcome::Failed,
                    None => Outcome::Passed,
                },
                name,
                why: why.unwrap_or_default(),
            })
        })
        .collect()
}

/// As Go's encoder escapes.
fn plain(text: &str) -> String {
    [
        ("&#xA;", "\n"),
        ("&#x9;", "\t"),
        ("&#39;", "'"),
        ("&#34;", "\""),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&amp;", "&"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

pub(super) fn render(rows: &[Row]) -> String {
    let mut text = String::from("| test | result | why |\n|---|---|---|\n");
    for row in rows {
        let outcome = match row.outcome {
            Outcome::Failed => "failed",
            Outcome::Passed => "passed",
        };
        let cell = |text: &str| text.replace('|', "\\|");
        let _ = writeln!(
            text,
            "| {} | {outcome} | {} |",
            cell(&row.name),
            cell(&row.why)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const JUNIT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
  <testsuite name="Kubernetes e2e suite" tests="3" failures="1" errors="0" time="9">
      <testcase name="[k8s.io] one &#34;cat /tmp/health&#34; [Conformance]" classname="Kubernetes e2e suite" time="1.5"></testcase>
      <testcase name="[sig-network] two" classname="Kubernetes e2e suite" time="2">
          <failure type="Failure">/some/file.go:629&#xA;Nov 22: expected a &lt;b&gt;&#xA;more</failure>
          <system-out>text</system-out>
      </testcase>
      <testcase name="[sig-apps] three" classname="Kubernetes e2e suite" time="0">
          <skipped></skipped>
      </testcase>
  </testsuite>"#;

    #[test]
    fn a_report_is_read_and_shown() {
        let mut rows = rows(JUNIT);
        rows.sort();
        assert_eq!(
            render(&rows),
            "| test | result | why |\n|---|---|---|\n\
             | [sig-network] two | failed | Nov 22: expected a <b> |\n\
             | [k8s.io] one \"cat /tmp/health\" [Conformance] | passed |  |\n"
        );
    }
}
