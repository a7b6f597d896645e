//! What was measured: turns as they come in, then medians, ranges, ratios turn by turn, and who is ahead.

use std::collections::BTreeMap;

use serde::Serialize;

use super::figures::{Better, Column, FIGURES, Figure};
use super::statistics::median;

/// A value of a turn, by what it is of.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    values: BTreeMap<(u32, &'static str, Column), Vec<f64>>,
    missing: BTreeMap<(u32, &'static str, Column), String>,
}

/// One figure on one column.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cell {
    pub(crate) column: Column,
    /// In the figure's unit; null when there is none.
    pub(crate) median: Option<f64>,
    pub(crate) lowest: Option<f64>,
    pub(crate) highest: Option<f64>,
    /// Turn by turn, in the order in which they were.
    pub(crate) turns: Vec<f64>,
    /// Median over the turns of this column's value by that of `direct`, and of `pod`, in the same round.
    pub(crate) to_direct: Option<f64>,
    pub(crate) to_pod: Option<f64>,
    /// Where that median lies with a confidence of 95 %.
    pub(crate) to_pod_interval: Option<[f64; 2]>,
    /// Why there is no value.
    pub(crate) missing: Option<String>,
    /// The best of those that go through a Service.
    pub(crate) best: bool,
}

/// One figure at one number of Services.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Line {
    pub(crate) services: u32,
    pub(crate) figure: &'static str,
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) cells: Vec<Cell>,
}

impl Measured {
    pub(crate) fn add(&mut self, services: u32, figure: Figure, column: Column, value: f64) {
        if value.is_finite() {
            let key = (services, figure.id, column);
            self.values.entry(key).or_default().push(value);
        }
    }

    pub(crate) fn miss(&mut self, services: u32, figure: Figure, column: Column, why: &str) {
        self.missing
            .insert((services, figure.id, column), why.to_owned());
    }

    fn values(&self, services: u32, figure: Figure, column: Column) -> &[f64] {
        self.values
            .get(&(services, figure.id, column))
            .map_or(&[], Vec::as_slice)
    }

    pub(crate) fn lines(&self, sizes: &[u32]) -> Vec<Line> {
        let mut lines = Vec::new();
        for services in sizes {
            for figure in FIGURES {
                let cells: Vec<Cell> = figure
                    .work
                    .columns()
                    .iter()
                    .map(|column| self.cell(*services, *figure, *column))
                    .collect();
                if cells
                    .iter()
                    .all(|cell| cell.median.is_none() && cell.missing.is_none())
                {
                    continue;
                }
                lines.push(Line {
                    services: *services,
                    figure: figure.id,
                    title: figure.title,
                    unit: figure.unit,
                    better: figure.better,
                    cells: with_best(cells, figure.better),
                });
            }
        }
        lines
    }

    fn cell(&self, services: u32, figure: Figure, column: Column) -> Cell {
        let turns = self.values(services, figure, column);
        let some = |value: f64| value.is_finite().then_some(value);
        let against = |other: Column| {
            let ratios = ratios(turns, self.values(services, figure, other));
            some(median(&ratios)).filter(|_| other != column)
        };
        Cell {
            column,
            median: some(median(turns)),
            lowest: turns.iter().copied().reduce(f64::min),
            highest: turns.iter().copied().reduce(f64::max),
            turns: turns.to_vec(),
            to_direct: against(Column::Direct),
            to_pod: against(Column::Pod),
            to_pod_interval: median_interval(&ratios(
                turns,
                self.values(services, figure, Column::Pod),
            ))
            .filter(|_| column != Column::Pod),
            missing: self.missing.get(&(services, figure.id, column)).cloned(),
            best: false,
        }
    }
}

/// Between which two values the median of what was sampled lies, with a confidence of at least 95 % or as near to it as
/// so few samples come: order statistics, which assume nothing of the distribution (David and Nagaraja, Order
/// Statistics, 7.1). `None` below five samples.
fn median_interval(samples: &[f64]) -> Option<[f64; 2]> {
    let count = samples.len();
    if count < 5 {
        return None;
    }
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    // How likely the median lies below the sample of each rank: a fair coin, `count` times.
    let mut below = 0.5_f64.powi(i32::try_from(count).ok()?);
    let mut cumulated = below;
    let mut rank = 0;
    while rank + 1 < count / 2 {
        below *= (count - rank) as f64 / (rank + 1) as f64;
        if cumulated + below > 0.025 {
            break;
        }
        cumulated += below;
        rank += 1;
    }
    Some([sorted[rank], sorted[count - 1 - rank]])
}

/// Turn by turn.
pub(crate) fn ratios(of: &[f64], by: &[f64]) -> Vec<f64> {
    of.iter()
        .zip(by)
        .filter(|(_, by)| **by > 0.0)
        .map(|(of, by)| of / by)
        .collect()
}

fn with_best(mut cells: Vec<Cell>, better: Better) -> Vec<Cell> {
    let competing = |cell: &Cell| Column::SERVICES.contains(&cell.column);
    let sign = if better == Better::Higher { 1.0 } else { -1.0 };
    let values: Vec<f64> = cells
        .iter()
        .filter(|cell| competing(cell))
        .filter_map(|cell| cell.median)
        .collect();
    let Some(best) = values.iter().map(|value| sign * value).reduce(f64::max) else {
        return cells;
    };
    // With one competitor, or all the same, nobody is ahead.
    if values.len() > 1 && values.iter().any(|value| sign * value < best) {
        for cell in cells.iter_mut().filter(|cell| competing(cell)) {
            cell.best = cell.median.is_some_and(|value| sign * value >= best);
        }
    }
    cells
}

impl Line {
    pub(crate) fn cell(&self, column: Column) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.column == column)
    }

    pub(crate) fn median(&self, column: Column) -> Option<f64> {
        self.cell(column)?.median
    }

    /// By how much another is ahead of this data plane, and who: 0.1 is a tenth.
    pub(crate) fn behind(&self) -> Option<(Column, f64)> {
        let own = self.cell(Column::Waggle)?;
        let best = self.cells.iter().find(|cell| cell.best)?;
        if own.best {
            return None;
        }
        let (own, other) = (own.median?, best.median?);
        let by = match self.better {
            Better::Higher => other / own - 1.0,
            Better::Lower => own / other - 1.0,
        };
        Some((best.column, by))
    }
}

/// A limit that the project set itself, and whether this run holds it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Verdict {
    pub(crate) what: String,
    pub(crate) limit: f64,
    pub(crate) is_minimum: bool,
    pub(crate) measured: f64,
    /// Where it lies with a confidence of 95 %, of medians of enough turns.
    pub(crate) interval: Option<[f64; 2]>,
    pub(crate) met: bool,
}

impl Verdict {
    /// What was measured, and where it lies.
    pub(crate) fn value(&self) -> String {
        let measured = number(self.measured);
        match self.interval {
            Some([low, high]) => format!("{measured} ({} to {})", number(low), number(high)),
            None => measured,
        }
    }
}

fn at_least(what: String, limit: f64, measured: f64) -> Verdict {
    Verdict {
        what,
        limit,
        is_minimum: true,
        measured,
        interval: None,
        met: measured >= limit,
    }
}

fn at_most(what: String, limit: f64, measured: f64) -> Verdict {
    Verdict {
        what,
        limit,
        is_minimum: false,
        measured,
        interval: None,
        met: measured <= limit,
    }
}

/// Every limit that something was measured for.
pub(crate) fn verdicts(lines: &[Line]) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let of = |figure: Figure| lines.iter().filter(move |line| line.figure == figure.id);
    let to_pod = |line: &Line| line.cell(Column::Waggle).and_then(|cell| cell.to_pod);
    for (figure, limit) in [
        (super::figures::CONNECT_RATE, 0.97),
        (super::figures::EXCHANGE_RATE, 0.99),
        (super::figures::STREAM_RATE, 0.99),
    ] {
        for line in of(figure) {
            if let Some(ratio) = to_pod(line) {
                let what = format!(
                    "{} at {} Services, of the pod's address",
                    line.title, line.services
                );
                let interval = line
                    .cell(Column::Waggle)
                    .and_then(|cell| cell.to_pod_interval);
                verdicts.push(Verdict {
                    interval,
                    ..at_least(what, limit, ratio)
                });
            }
        }
    }
    let flat: Vec<f64> = of(super::figures::CONNECT_RATE)
        .filter_map(to_pod)
        .collect();
    if flat.len() > 1 {
        let lowest = flat.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = flat.iter().copied().fold(0.0, f64::max);
        let what =
            "connect-request-close over all numbers of Services: lowest of highest".to_owned();
        verdicts.push(at_least(what, 0.97, lowest / highest));
    }
    for line in of(super::figures::CONNECT_RATE) {
        let own = line.median(Column::Waggle);
        for other in [Column::Iptables, Column::Nftables] {
            if let (Some(own), Some(other_rate)) = (own, line.median(other)) {
                let what = format!(
                    "{} at {} Services, of {}",
                    line.title,
                    line.services,
                    other.name()
                );
                verdicts.push(at_least(what, 1.0, own / other_rate));
            }
        }
    }
    for (figure, services, limit) in [
        (super::figures::HOOK, None, 300.0),
        (super::figures::CHANGE_P99, Some(10_000), 1.0),
        (super::figures::LOAD, Some(30_000), 1000.0),
    ] {
        for line in of(figure).filter(|line| services.is_none_or(|n| n == line.services)) {
            if let Some(value) = line.median(Column::Waggle) {
                let what = format!(
                    "{} at {} Services, {}",
                    line.title, line.services, line.unit
                );
                verdicts.push(at_most(what, limit, value));
            }
        }
    }
    verdicts
}

/// Three digits that mean something.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        small if small >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests;
