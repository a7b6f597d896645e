//! The page has everything in it, and nothing from elsewhere.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::bench::figures::{CONNECT_P50, CONNECT_RATE};
use crate::bench::machine::Machine;
use crate::bench::report::{Settings, notes};
use crate::bench::results::{Measured, verdicts};
use crate::bench::services::Family;

fn report() -> Report {
    let mut measured = Measured::default();
    for services in [10, 1000] {
        for (column, value) in [
            (Column::Pod, 100.0),
            (Column::Waggle, 95.0),
            (Column::Nftables, 99.0),
        ] {
            measured.add(services, CONNECT_RATE, column, value);
            measured.add(services, CONNECT_P50, column, 1000.0 / value);
        }
        measured.miss(services, CONNECT_RATE, Column::Iptables, "a \"<reason>\"");
    }
    let lines = measured.lines(&[10, 1000]);
    let machine = Machine::look("iptables-restore");
    Report {
        version: "0",
        began: "2026-01-01T00:00:00Z".to_owned(),
        seconds: 1.0,
        command: "sudo waggle bench --report 'a<b'".to_owned(),
        settings: Settings {
            services: vec![10, 1000],
            rounds: 1,
            turn_seconds: 0.1,
            family: Family::V4,
            processors: "0".to_owned(),
        },
        verdicts: verdicts(&lines),
        notes: notes(&machine),
        lines,
        machine,
    }
}

#[test]
fn the_page_is_whole_and_escapes_what_it_is_given() {
    let page = page(&report());
    assert_eq!(page.matches("<svg").count(), 2, "a plot for each figure");
    assert_eq!(page.matches("</svg>").count(), 2);
    for text in [
        "<h2>10 Services</h2>",
        "<h2>1000 Services</h2>",
        "'a&lt;b'",
        "a &quot;&lt;reason&gt;&quot;",
        "missed",
    ] {
        assert!(page.contains(text), "{text}");
    }
    for fetched in ["http://", "https://", "src=", "<link", "<script", "@import"] {
        assert!(!page.contains(fetched), "{fetched}");
    }
}

#[test]
fn the_terminal_says_who_is_ahead_and_what_was_not_measured() {
    let text = crate::bench::table::text(&report());
    assert!(text.contains("nftables by 4.2 %"), "{text}");
    assert!(text.contains("iptables: a \"<reason>\""), "{text}");
    assert!(text.contains("MISSED 0.950"), "{text}");
    let header = text.lines().find(|line| line.contains("FIGURE")).unwrap();
    let row = text
        .lines()
        .find(|line| line.contains("connect-request-close"))
        .unwrap();
    // Columns stand below their names.
    let end = |line: &str, word: &str| line.find(word).unwrap() + word.len();
    assert_eq!(end(row, "99.0*"), end(header, "NFTABLES"), "{text}");
}
