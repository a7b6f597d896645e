//! The page: plots, tables, limits, facts, how to do it again.

use std::fmt::Write as _;

use super::Report;
use super::plot::{colour, plot};
use crate::bench::figures::{Better, Column, FIGURES};
use crate::bench::results::number;
use crate::bench::results::{Cell, Line};

const STYLE: &str = "
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:1040px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .5rem;text-align:right;border-bottom:1px solid #8884}
th:first-child,td:first-child{text-align:left}
td small{display:block;opacity:.65}
.best{font-weight:700}.missed{color:#b5323c;font-weight:700}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(400px,1fr));gap:1rem}
figure{margin:0}figcaption{font-weight:600}
svg{width:100%;height:auto}svg text{font-size:11px;fill:currentColor}
.grid{stroke:#8884}.key span{margin-right:1.2rem;white-space:nowrap}
.key i{display:inline-block;width:.8em;height:.8em;margin-right:.35em}
pre{overflow:auto;padding:.7rem;background:#8882}
";

/// For text between tags and in quoted attributes.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

pub(crate) fn page(report: &Report) -> String {
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>waggle bench</title><style>{STYLE}</style>\n<h1>waggle bench: one data plane beside three others</h1>\n<p>{}, {}; {:.0} s, {} rounds of turns of {} s, {}.</p>\n",
        escape(&report.began),
        escape(&format!("waggle {}", report.version)),
        report.seconds,
        report.settings.rounds,
        report.settings.turn_seconds,
        match report.settings.family {
            crate::bench::services::Family::V4 => "IPv4",
            crate::bench::services::Family::V6 => "IPv6",
        }
    );
    key(&mut out);
    plots(&mut out, report);
    for services in &report.settings.services {
        table(&mut out, report, *services);
    }
    verdicts(&mut out, report);
    out.push_str("<h2>How to read this</h2><ul>");
    for note in &report.notes {
        let _ = write!(out, "<li>{}</li>", escape(note));
    }
    out.push_str("</ul><h2>The machine</h2><table>");
    for (name, value) in report.machine.rows() {
        let _ = write!(out, "<tr><td>{name}</td><td>{}</td></tr>", escape(&value));
    }
    let _ = writeln!(
        out,
        "<tr><td>where it ran</td><td>{}</td></tr></table><h2>Do it again</h2><pre>{}</pre></html>",
        escape(&report.settings.processors),
        escape(&report.command)
    );
    out
}

fn key(out: &mut String) {
    out.push_str("<p class=\"key\">");
    for column in Column::ALL {
        let _ = write!(
            out,
            "<span><i style=\"background:{}\"></i>{}: {}</span> ",
            colour(column),
            column.name(),
            escape(column.explained())
        );
    }
    out.push_str("</p>\n");
}

fn plots(out: &mut String, report: &Report) {
    out.push_str("<div class=\"plots\">");
    for figure in FIGURES {
        let lines: Vec<&Line> = report
            .lines
            .iter()
            .filter(|line| line.figure == figure.id)
            .collect();
        if let Some(svg) = plot(&lines) {
            let better = match figure.better {
                Better::Higher => "higher is better",
                Better::Lower => "lower is better",
            };
            let _ = write!(
                out,
                "<figure><figcaption>{} ({}; {better})</figcaption>{svg}</figure>",
                escape(figure.title),
                escape(figure.unit)
            );
        }
    }
    out.push_str("</div>\n");
}

fn table(out: &mut String, report: &Report, services: u32) {
    let _ = write!(
        out,
        "<h2>{services} Services</h2><table><tr><th>figure</th>"
    );
    for column in Column::ALL {
        let _ = write!(out, "<th>{}</th>", column.name());
    }
    out.push_str("<th>waggle / pod</th><th>waggle / direct</th></tr>");
    for line in report.lines.iter().filter(|line| line.services == services) {
        let _ = write!(
            out,
            "<tr><td>{}, {}</td>",
            escape(line.title),
            escape(line.unit)
        );
        for column in Column::ALL {
            cell(out, line.cell(column));
        }
        let own = line.cell(Column::Waggle);
        for ratio in [
            own.and_then(|cell| cell.to_pod),
            own.and_then(|cell| cell.to_direct),
        ] {
            match ratio {
                Some(ratio) => {
                    let _ = write!(out, "<td>{ratio:.3}</td>");
                }
                None => out.push_str("<td></td>"),
            }
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table>\n");
}

fn cell(out: &mut String, cell: Option<&Cell>) {
    let Some(cell) = cell else {
        out.push_str("<td></td>");
        return;
    };
    match (cell.median, cell.lowest, cell.highest) {
        (Some(median), Some(low), Some(high)) => {
            let class = if cell.best { " class=\"best\"" } else { "" };
            let _ = write!(out, "<td{class}>{}", number(median));
            if cell.turns.len() > 1 {
                let _ = write!(out, "<small>{} to {}</small>", number(low), number(high));
            }
            out.push_str("</td>");
        }
        _ => {
            let why = escape(cell.missing.as_deref().unwrap_or_default());
            let _ = write!(out, "<td title=\"{why}\">-</td>");
        }
    }
}

fn verdicts(out: &mut String, report: &Report) {
    if report.verdicts.is_empty() {
        return;
    }
    out.push_str("<h2>Limits that the project set itself</h2><table><tr><th>what</th><th>limit</th><th>measured</th><th></th></tr>");
    for verdict in &report.verdicts {
        let (class, text) = if verdict.met {
            ("met", "met")
        } else {
            ("missed", "missed")
        };
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{} {}</td><td>{}</td><td class=\"{class}\">{text}</td></tr>",
            escape(&verdict.what),
            if verdict.is_minimum {
                "at least"
            } else {
                "at most"
            },
            number(verdict.limit),
            verdict.value()
        );
    }
    out.push_str("</table>\n");
}

#[cfg(test)]
mod tests;
