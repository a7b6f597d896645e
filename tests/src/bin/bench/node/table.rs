//! The one table that a benchmark prints.

use std::fmt::Write as _;

use crate::statistics::median;

/// One measured figure.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// The limit that the project set itself.
    pub(crate) target: Option<Target>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    fn met(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }
}

pub(crate) fn row(what: &'static str, value: f64, unit: &'static str) -> Row {
    Row {
        what,
        value,
        unit,
        target: None,
    }
}

impl Row {
    pub(crate) fn at_most(self, limit: f64) -> Self {
        Self {
            target: Some(Target::AtMost(limit)),
            ..self
        }
    }

    pub(crate) fn at_least(self, limit: f64) -> Self {
        Self {
            target: Some(Target::AtLeast(limit)),
            ..self
        }
    }
}

/// The median of each figure over the rounds, with the lowest and highest.
#[derive(Debug)]
pub(crate) struct Median {
    row: Row,
    low: f64,
    high: f64,
}

pub(crate) fn medians(rounds: &[Vec<Row>]) -> Vec<Median> {
    let Some(first) = rounds.first() else {
        return Vec::new();
    };
    first
        .iter()
        .map(|row| {
            let values: Vec<f64> = rounds
                .iter()
                .flatten()
                .filter(|other| other.what == row.what)
                .map(|other| other.value)
                .collect();
            Median {
                row: Row {
                    value: median(&values),
                    ..row.clone()
                },
                low: values.iter().copied().fold(f64::INFINITY, f64::min),
                high: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            }
        })
        .collect()
}

fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

pub(crate) fn text(rows: &[Median], rounds: usize) -> String {
    let mut out = format!(
        "\n{:<52} {:>10} {:<8} {:>10} {:>10}  TARGET\n",
        "FIGURE", "MEDIAN", "", "LOWEST", "HIGHEST"
    );
    for Median { row, low, high } in rows {
        let target = match row.target {
            None => String::new(),
            Some(target) => {
                let (sign, limit) = match target {
                    Target::AtMost(limit) => ("<=", limit),
                    Target::AtLeast(limit) => (">=", limit),
                };
                let verdict = if target.met(row.value) {
                    "met"
                } else {
                    "MISSED"
                };
                format!("{sign} {} {verdict}", number(limit))
            }
        };
        let _ = writeln!(
            out,
            "{:<52} {:>10} {:<8} {:>10} {:>10}  {target}",
            row.what,
            number(row.value),
            row.unit,
            number(*low),
            number(*high)
        );
    }
    let _ = writeln!(
        out,
        "\n{rounds} round(s), each with a cluster of its own; medians over the rounds."
    );
    out
}

pub(crate) fn json(rows: &[Median]) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|Median { row, low, high }| {
            serde_json::json!({
                "figure": row.what, "median": row.value, "unit": row.unit, "lowest": low, "highest": high,
                "targetMet": row.target.map(|target| target.met(row.value)),
            })
        })
        .collect();
    serde_json::to_string_pretty(&rows).expect("plain values")
}
