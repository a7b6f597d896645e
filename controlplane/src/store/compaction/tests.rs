//! The compaction plan.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn history(revision: Revision, compacted: Revision) -> History {
    History {
        revision,
        compacted,
        within_bytes: 0,
    }
}

/// One sample a minute, at `per_minute` revisions a minute.
fn samples(minutes: u32, per_minute: u64) -> (Samples, Duration, Revision) {
    let mut samples = Samples::default();
    let retention = Retention::default();
    for minute in 0..=minutes {
        samples.record(MINUTE * minute, u64::from(minute) * per_minute, &retention);
    }
    (samples, MINUTE * minutes, u64::from(minutes) * per_minute)
}

#[test]
fn keeps_five_minutes() {
    let (samples, now, revision) = samples(60, 1_000);
    let target = plan(
        &Retention::default(),
        history(revision, 50_000),
        &samples,
        now,
    );
    assert_eq!(target, Some(55_000));
}

#[test]
fn keeps_the_last_revisions_of_an_idle_store() {
    let (mut samples, now, revision) = samples(60, 20);
    let later = now + MINUTE * 600;
    samples.record(later, revision, &Retention::default());
    samples.record(later + MINUTE, revision, &Retention::default());
    let target = plan(
        &Retention::default(),
        history(revision, 0),
        &samples,
        later + MINUTE,
    );
    assert_eq!((revision, target), (1_200, None));
    let fewer = Retention {
        min_revisions: 900,
        ..Retention::default()
    };
    let target = plan(&fewer, history(revision, 0), &samples, later + MINUTE);
    assert_eq!(target, Some(300));
}

#[test]
fn a_busy_store_keeps_a_bounded_number() {
    let (samples, now, revision) = samples(2, 1_000_000);
    let target = plan(&Retention::default(), history(revision, 0), &samples, now);
    assert_eq!(target, Some(revision - 10_000));
}

#[test]
fn large_values_leave_earlier_and_at_once() {
    let (samples, now, revision) = samples(1, 100);
    let history = History {
        within_bytes: 40,
        ..history(revision, 30)
    };
    let target = plan(&Retention::default(), history, &samples, now);
    assert_eq!(target, Some(40));
}

proptest! {
    #[test]
    fn never_goes_back_and_never_ahead(
        steps in prop::collection::vec((0u32..400, 0u64..30_000), 1..40), within in 0u64..200_000,
    ) {
        let retention = Retention::default();
        let mut samples = Samples::default();
        let (mut now, mut revision, mut compacted) = (Duration::ZERO, 0, 0);
        for (seconds, writes) in steps {
            now += Duration::from_secs(seconds.into());
            revision += writes;
            samples.record(now, revision, &retention);
            let within_bytes = within.min(revision);
            let history = History { revision, compacted, within_bytes };
            if let Some(target) = plan(&retention, history, &samples, now) {
                prop_assert!(target > compacted && target <= revision);
                compacted = target;
            }
            prop_assert!(revision - compacted <= retention.max_revisions + retention.step);
            // Samples are bounded by the age that they serve.
            prop_assert!(samples.samples.len() < 400);
        }
    }
}
