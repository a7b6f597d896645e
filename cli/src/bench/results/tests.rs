//! Ratios, who is ahead, what is missing, limits.
#![allow(clippy::unwrap_used)]
use super::super::figures::{CHANGE_P99, CONNECT_P50, CONNECT_RATE, HOOK};
use super::*;

fn measured(figure: Figure, services: u32, values: &[(Column, &[f64])]) -> Measured {
    let mut measured = Measured::default();
    for (column, turns) in values {
        for turn in *turns {
            measured.add(services, figure, *column, *turn);
        }
    }
    measured
}

#[test]
fn a_ratio_is_of_the_same_round_and_not_of_medians() {
    let values: &[(Column, &[f64])] = &[
        (Column::Pod, &[100.0, 200.0, 400.0]),
        (Column::Waggle, &[90.0, 180.0, 390.0]),
    ];
    let lines = measured(CONNECT_RATE, 10, values).lines(&[10]);
    let cell = lines[0].cell(Column::Waggle).unwrap();
    assert_eq!(cell.median, Some(180.0));
    assert_eq!((cell.lowest, cell.highest), (Some(90.0), Some(390.0)));
    assert_eq!(cell.to_pod, Some(0.9));
    assert_eq!(cell.to_direct, None, "direct was not measured");
}

#[test]
fn the_best_goes_by_the_figures_direction_and_being_behind_is_said() {
    let values: &[(Column, &[f64])] = &[
        (Column::Waggle, &[20.0]),
        (Column::Iptables, &[40.0]),
        (Column::Nftables, &[10.0]),
        (Column::Direct, &[1.0]),
    ];
    let lower = measured(CONNECT_P50, 10, values).lines(&[10]);
    assert!(lower[0].cell(Column::Nftables).unwrap().best);
    assert_eq!(lower[0].behind(), Some((Column::Nftables, 1.0)));
    let higher = measured(CONNECT_RATE, 10, values).lines(&[10]);
    assert!(higher[0].cell(Column::Iptables).unwrap().best);
    let alone = measured(CONNECT_RATE, 10, &[(Column::Waggle, &[1.0])]).lines(&[10]);
    assert!(!alone[0].cell(Column::Waggle).unwrap().best);
    assert_eq!(alone[0].behind(), None);
}

#[test]
fn a_column_that_could_not_be_measured_says_why() {
    let mut measured = measured(CONNECT_RATE, 10, &[(Column::Waggle, &[1.0])]);
    measured.miss(10, CONNECT_RATE, Column::Nftables, "nft is not there");
    measured.add(10, CONNECT_RATE, Column::Pod, f64::NAN);
    let lines = measured.lines(&[10, 20]);
    assert_eq!(lines.len(), 1, "nothing was measured at 20");
    let cell = lines[0].cell(Column::Nftables).unwrap();
    assert_eq!(cell.missing.as_deref(), Some("nft is not there"));
    assert_eq!(lines[0].median(Column::Pod), None);
}

#[test]
fn limits_are_judged_where_something_was_measured() {
    let mut all = Measured::default();
    for (services, own) in [(10, 98.0), (10_000, 90.0)] {
        all.add(services, CONNECT_RATE, Column::Pod, 100.0);
        all.add(services, CONNECT_RATE, Column::Waggle, own);
        all.add(services, CONNECT_RATE, Column::Nftables, 95.0);
        all.add(services, CHANGE_P99, Column::Waggle, 0.5);
    }
    all.add(10, HOOK, Column::Waggle, 400.0);
    let verdicts = verdicts(&all.lines(&[10, 10_000]));
    let met: Vec<bool> = verdicts.iter().map(|verdict| verdict.met).collect();
    // Of the pod twice, flat, of nftables twice, the hook, the change at 10,000 and not at 10.
    assert_eq!(
        met,
        [true, false, false, true, false, false, true],
        "{verdicts:#?}"
    );
}

#[test]
fn where_the_median_lies() {
    let samples = |count: u32| (1..=count).map(f64::from).collect::<Vec<_>>();
    assert_eq!(median_interval(&samples(4)), None);
    // Printed tables: 5 samples give 93.75 %, 10 give ranks 2 and 9, 25 ranks 8 and 18, 100 ranks 40 and 61.
    assert_eq!(median_interval(&samples(5)), Some([1.0, 5.0]));
    assert_eq!(median_interval(&samples(10)), Some([2.0, 9.0]));
    assert_eq!(median_interval(&samples(25)), Some([8.0, 18.0]));
    assert_eq!(median_interval(&samples(100)), Some([40.0, 61.0]));
}
