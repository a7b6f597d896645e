//! What was measured, against what was aimed at: samples become medians, verdicts and one table. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::statistics::median;

/// Something that is measured, perhaps for several systems.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figure {
    /// In the JSON.
    pub(crate) key: &'static str,
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) target: Option<Target>,
}

/// What the project set itself. The columns that it holds for are those that are ours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Target {
    Most(f64),
    Least(f64),
    /// At least so many times what the other column has in the same round.
    LeastTimes(f64, Column),
    MostTimes(f64, Column),
    /// At most so much more than the other column.
    MostBeyond(f64, Column),
}

/// Whether what was found (first) keeps a limit.
type Compare = fn(f64, f64) -> bool;

/// Name of a column.
pub(crate) type Column = &'static str;

/// The figures of a benchmark in the order of the table, its columns, and which of them targets hold for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) title: &'static str,
    pub(crate) figures: &'static [Figure],
    pub(crate) columns: &'static [Column],
    pub(crate) ours: &'static [Column],
    /// What is compared with what, and what is not measured.
    pub(crate) notes: &'static [&'static str],
}

/// Samples by figure and column, in the order in which they were taken.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    samples: BTreeMap<(&'static str, Column), Vec<f64>>,
}

impl Measured {
    pub(crate) fn add(&mut self, figure: &'static str, column: Column, value: f64) {
        self.samples
            .entry((figure, column))
            .or_default()
            .push(value);
    }

    fn of(&self, figure: &Figure, column: Column) -> &[f64] {
        self.samples
            .get(&(figure.key, column))
            .map_or(&[], Vec::as_slice)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Cell {
    pub(crate) column: Column,
    pub(crate) median: f64,
    pub(crate) lowest: f64,
    pub(crate) highest: f64,
    pub(crate) samples: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verdict: Option<Verdict>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) met: bool,
    /// What was held against the target.
    pub(crate) found: f64,
    pub(crate) target: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Line {
    pub(crate) figure: &'static str,
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) cells: Vec<Cell>,
}

/// Everything, as it is printed.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) title: &'static str,
    /// What the run was made with.
    pub(crate) settings: BTreeMap<&'static str, String>,
    pub(crate) seconds: f64,
    pub(crate) lines: Vec<Line>,
    pub(crate) notes: &'static [&'static str],
    #[serde(skip)]
    columns: &'static [Column],
}

impl Report {
    pub(crate) fn new(
        plan: &Plan,
        measured: &Measured,
        settings: BTreeMap<&'static str, String>,
        seconds: f64,
    ) -> Self {
        let lines = plan
            .figures
            .iter()
            .map(|figure| line(plan, figure, measured));
        Self {
            title: plan.title,
            settings,
            seconds,
            // What was not asked for has no line.
            lines: lines.filter(|line| !line.cells.is_empty()).collect(),
            notes: plan.notes,
            columns: plan.columns,
        }
    }
}

fn line(plan: &Plan, figure: &Figure, measured: &Measured) -> Line {
    let cells = plan.columns.iter().filter_map(|column| {
        let samples = measured.of(figure, column);
        if samples.is_empty() {
            return None;
        }
        let target = figure.target.filter(|_| plan.ours.contains(column));
        Some(Cell {
            column,
            median: median(samples),
            lowest: samples.iter().copied().fold(f64::INFINITY, f64::min),
            highest: samples.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            samples: samples.len(),
            verdict: target.and_then(|target| verdict(target, figure, samples, measured)),
        })
    });
    Line {
        figure: figure.key,
        what: figure.what,
        unit: figure.unit,
        cells: cells.collect(),
    }
}

/// `None` where what it is compared with was not measured.
fn verdict(
    target: Target,
    figure: &Figure,
    samples: &[f64],
    measured: &Measured,
) -> Option<Verdict> {
    let against = |column, how: fn(f64, f64) -> f64| {
        let others = measured.of(figure, column);
        if others.is_empty() {
            return None;
        }
        // Each round has its own conditions: what was measured in the same one is compared.
        if others.len() == samples.len() {
            let each = samples
                .iter()
                .zip(others)
                .map(|(ours, other)| how(*ours, *other));
            return Some(median(&each.collect::<Vec<_>>()));
        }
        Some(how(median(samples), median(others)))
    };
    let unit = figure.unit;
    let (found, met, target): (f64, Compare, (f64, String)) = match target {
        Target::Most(limit) => (
            median(samples),
            |found, limit| found <= limit,
            (limit, format!("<= {} {unit}", number(limit))),
        ),
        Target::Least(limit) => (
            median(samples),
            |found, limit| found >= limit,
            (limit, format!(">= {} {unit}", number(limit))),
        ),
        Target::LeastTimes(times, column) => (
            against(column, |ours, other| ours / other)?,
            |found, limit| found >= limit,
            (times, format!(">= {times} x {column}")),
        ),
        Target::MostTimes(times, column) => (
            against(column, |ours, other| ours / other)?,
            |found, limit| found <= limit,
            (times, format!("<= {times} x {column}")),
        ),
        Target::MostBeyond(more, column) => (
            against(column, |ours, other| ours - other)?,
            |found, limit| found <= limit,
            (more, format!("<= {column} + {} {unit}", number(more))),
        ),
    };
    Some(Verdict {
        met: met(found, target.0),
        found,
        target: target.1,
    })
}

/// With as many digits as mean something.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

pub(crate) fn text(report: &Report) -> String {
    let mut head = vec!["FIGURE".to_owned(), "UNIT".to_owned()];
    head.extend(report.columns.iter().map(|column| column.to_uppercase()));
    head.push("TARGET".to_owned());
    let mut rows = vec![head];
    for line in &report.lines {
        let mut row = vec![line.what.to_owned(), line.unit.to_owned()];
        for column in report.columns {
            let cell = line.cells.iter().find(|cell| cell.column == *column);
            row.push(cell.map_or_else(String::new, |cell| number(cell.median)));
        }
        let verdicts: Vec<String> = line.cells.iter().filter_map(judged).collect();
        row.push(verdicts.join("; "));
        rows.push(row);
    }
    let mut out = format!("\n{}\n\n{}\n", report.title, align(&rows));
    let settings: Vec<String> = report
        .settings
        .iter()
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    out.push_str(&format!(
        "Medians. {}; {:.0} s in all.\n",
        settings.join(", "),
        report.seconds
    ));
    for note in report.notes {
        out.push_str(&format!("- {note}\n"));
    }
    out
}

fn judged(cell: &Cell) -> Option<String> {
    let verdict = cell.verdict.as_ref()?;
    let word = if verdict.met { "met" } else { "MISSED" };
    Some(format!(
        "{}: {word} ({}, found {})",
        cell.column,
        verdict.target,
        number(verdict.found)
    ))
}

/// The first two columns and the last are texts, what is between them are numbers.
fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(column, (cell, width))| match column {
            0 | 1 => format!("{cell:<width$}"),
            last if last + 1 == columns => cell.clone(),
            _ => format!("{cell:>width$}"),
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Figure = Figure {
        key: "rate",
        what: "writes per second",
        unit: "/s",
        target: Some(Target::LeastTimes(1.0, "etcd")),
    };
    const GAP: Figure = Figure {
        key: "gap",
        what: "longest gap",
        unit: "ms",
        target: Some(Target::Most(2_000.0)),
    };
    const START: Figure = Figure {
        key: "start",
        what: "start",
        unit: "ms",
        target: Some(Target::MostBeyond(150.0, "etcd")),
    };
    const PLAN: Plan = Plan {
        title: "Test",
        figures: &[RATE, GAP, START],
        columns: &["etcd", "store", "api"],
        ours: &["store", "api"],
        notes: &["nothing is measured"],
    };

    fn report(samples: &[(&'static str, Column, &[f64])]) -> Report {
        let mut measured = Measured::default();
        for (figure, column, values) in samples {
            for value in *values {
                measured.add(figure, column, *value);
            }
        }
        Report::new(&PLAN, &measured, BTreeMap::new(), 1.0)
    }

    fn met(report: &Report, line: usize, column: Column) -> Option<bool> {
        let cell = report.lines[line]
            .cells
            .iter()
            .find(|cell| cell.column == column);
        cell.and_then(|cell| cell.verdict.as_ref())
            .map(|verdict| verdict.met)
    }

    #[test]
    fn what_is_compared_was_measured_in_the_same_round() {
        // The median alone would say 300 against 100.
        let report = report(&[
            ("rate", "etcd", &[100.0, 400.0, 90.0]),
            ("rate", "store", &[99.0, 390.0, 300.0]),
        ]);
        assert_eq!(met(&report, 0, "store"), Some(false));
        assert_eq!(met(&report, 0, "etcd"), None, "targets are for ours");
        assert_eq!(report.lines.len(), 1, "what was not measured has no line");
    }

    #[test]
    fn limits_hold_for_the_medians() {
        let report = report(&[
            ("gap", "store", &[100.0, 9_000.0, 200.0]),
            ("gap", "api", &[2_001.0]),
            ("start", "etcd", &[100.0]),
            ("start", "store", &[249.0, 251.0]),
            ("start", "api", &[251.0]),
        ]);
        assert_eq!(met(&report, 0, "store"), Some(true));
        assert_eq!(met(&report, 0, "api"), Some(false));
        assert_eq!(met(&report, 1, "store"), Some(true));
        assert_eq!(met(&report, 1, "api"), Some(false));
    }

    #[test]
    fn nothing_is_judged_by_what_was_not_measured() {
        let report = report(&[("rate", "store", &[5.0])]);
        assert_eq!(met(&report, 0, "store"), None);
    }

    #[test]
    fn the_table_is_aligned_and_says_what_was_missed() {
        let report = report(&[
            ("rate", "etcd", &[1_000.0]),
            ("rate", "store", &[20.5]),
            ("gap", "api", &[7.0]),
        ]);
        let text = text(&report);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[3],
            "FIGURE             UNIT  ETCD  STORE   API  TARGET"
        );
        assert_eq!(
            lines[4],
            "writes per second  /s    1000   20.5        store: MISSED (>= 1 x etcd, found 0.02)"
        );
        assert_eq!(
            lines[5],
            "longest gap        ms                 7.00  api: met (<= 2000 ms, found 7.00)"
        );
        assert!(text.ends_with("- nothing is measured\n"), "{text}");
    }
}
