//! The result on a terminal.

use std::fmt::Write as _;

use super::figures::Column;
use super::report::Report;
use super::results::{Line, number};

pub(crate) fn text(report: &Report) -> String {
    let mut out = String::new();
    for services in &report.settings.services {
        let _ = writeln!(out, "\n{services} Services, three endpoints each");
        let _ = write!(out, "  {:<34} {:<7}", "FIGURE", "UNIT");
        for column in Column::ALL {
            let _ = write!(out, " {:>10}", column.name().to_uppercase());
        }
        let _ = writeln!(out, "  WAGGLE/POD");
        for line in report
            .lines
            .iter()
            .filter(|line| line.services == *services)
        {
            let _ = writeln!(out, "{}", row(line));
        }
    }
    let _ = writeln!(out, "\n* the best of the three that go through a Service");
    for column in Column::ALL {
        let _ = writeln!(out, "  {:<9} {}", column.name(), column.explained());
    }
    behind(&mut out, &report.lines);
    missing(&mut out, &report.lines);
    if !report.verdicts.is_empty() {
        let _ = writeln!(out, "\nLimits that the project set itself");
    }
    for verdict in &report.verdicts {
        let _ = writeln!(
            out,
            "  {:<6} {} (limit: {} {})  {}",
            if verdict.met { "met" } else { "MISSED" },
            verdict.value(),
            if verdict.is_minimum {
                "at least"
            } else {
                "at most"
            },
            number(verdict.limit),
            verdict.what
        );
    }
    let _ = writeln!(out, "\nHow to read this");
    for note in &report.notes {
        let _ = writeln!(out, "  - {note}");
    }
    for (name, value) in report.machine.rows() {
        let _ = writeln!(out, "  {name:<20} {value}");
    }
    let _ = writeln!(out, "  {:<20} {}", "again", report.command);
    out
}

fn row(line: &Line) -> String {
    let mut out = format!("  {:<34} {:<7}", line.title, line.unit);
    for column in Column::ALL {
        let text = match line.cell(column) {
            Some(cell) => match cell.median {
                Some(value) => {
                    format!("{}{}", number(value), if cell.best { "*" } else { " " })
                }
                None if cell.missing.is_some() => "- ".to_owned(),
                None => String::new(),
            },
            None => String::new(),
        };
        let _ = write!(out, " {text:>10}");
    }
    if let Some(ratio) = line.cell(Column::Waggle).and_then(|cell| cell.to_pod) {
        let _ = write!(out, "  {ratio:.3}");
    }
    out.trim_end().to_owned()
}

fn behind(out: &mut String, lines: &[Line]) {
    let behind: Vec<_> = lines
        .iter()
        .filter_map(|line| line.behind().map(|(who, by)| (line, who, by)))
        .collect();
    if behind.is_empty() {
        return;
    }
    let _ = writeln!(out, "\nWhere another is ahead of Waggle");
    for (line, who, by) in behind {
        let by = if by < 1.0 {
            format!("by {:.1} %", by * 100.0)
        } else {
            format!("{} times", number(by + 1.0))
        };
        let _ = writeln!(
            out,
            "  {:<34} at {:>6} Services: {} {by}",
            line.title,
            line.services,
            who.name(),
        );
    }
}

/// Each reason once.
fn missing(out: &mut String, lines: &[Line]) {
    let mut reasons: Vec<String> = lines
        .iter()
        .flat_map(|line| &line.cells)
        .filter_map(|cell| {
            Some(format!(
                "{}: {}",
                cell.column.name(),
                cell.missing.as_ref()?
            ))
        })
        .collect();
    reasons.sort();
    reasons.dedup();
    if !reasons.is_empty() {
        let _ = writeln!(out, "\nNot measured");
    }
    for reason in reasons {
        let _ = writeln!(out, "  {reason}");
    }
}
