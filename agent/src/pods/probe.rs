//! When a probe's results change what is thought of a container, and how often it is asked. Pure.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    /// As events name it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// The numbers of a probe with their defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    pub(crate) initial_delay: Duration,
    pub(crate) period: Duration,
    pub(crate) timeout: Duration,
    pub(crate) success: u32,
    pub(crate) failure: u32,
}

impl Pace {
    pub(crate) fn of(probe: &Probe) -> Self {
        let at_least_one = |value: Option<i32>, default: u32| {
            value
                .and_then(|value| u32::try_from(value).ok())
                .filter(|value| *value > 0)
                .unwrap_or(default)
        };
        let seconds = |count: u32| Duration::from_secs(u64::from(count));
        Self {
            initial_delay: seconds(
                probe
                    .initial_delay_seconds
                    .and_then(|value| u32::try_from(value).ok())
                    .unwrap_or(0),
            ),
            period: seconds(at_least_one(probe.period_seconds, 10)),
            timeout: seconds(at_least_one(probe.timeout_seconds, 1)),
            success: at_least_one(probe.success_threshold, 1),
            failure: at_least_one(probe.failure_threshold, 3),
        }
    }
}

/// Consecutive equal results, and the verdict that enough of them made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    last: Option<bool>,
    run: u32,
    verdict: Option<bool>,
}

impl Tally {
    /// Takes one result; returns the verdict when this one changed it.
    pub(crate) fn take(&mut self, success: bool, pace: &Pace) -> Option<bool> {
        if self.last == Some(success) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(success);
            self.run = 1;
        }
        let needed = if success { pace.success } else { pace.failure };
        if self.run < needed || self.verdict == Some(success) {
            return None;
        }
        self.verdict = Some(success);
        Some(success)
    }
}

/// Before a program listens it refuses: for the first period a container that is waited for is asked more
/// often, and refusals do not count. `attempt` begins with zero.
pub(crate) fn eager_pause(attempt: u32, period: Duration) -> Option<Duration> {
    let pause = Duration::from_millis(25 << attempt.min(32));
    // The pauses double, so what has passed is about as long as the next one.
    (pause < period / 2).then_some(pause)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn pace(success: u32, failure: u32) -> Pace {
        Pace {
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            success,
            failure,
        }
    }

    #[test]
    fn thresholds_count_consecutive_results() {
        let pace = pace(2, 3);
        let mut tally = Tally::default();
        let mut verdicts = Vec::new();
        for success in [
            true, false, true, true, true, false, false, true, false, false, false,
        ] {
            verdicts.push(tally.take(success, &pace));
        }
        let mut expected = vec![None; 11];
        expected[3] = Some(true);
        expected[10] = Some(false);
        assert_eq!(verdicts, expected);
    }

    #[test]
    fn defaults_are_those_of_kubernetes() {
        let pace = Pace::of(&Probe::default());
        assert_eq!(pace.period, Duration::from_secs(10));
        assert_eq!(pace.timeout, Duration::from_secs(1));
        assert_eq!((pace.success, pace.failure), (1, 3));
    }

    #[test]
    fn eager_asking_ends_within_the_first_period() {
        for period in [1, 10, 60] {
            let period = Duration::from_secs(period);
            let sum: Duration = (0..).map_while(|n| eager_pause(n, period)).sum();
            assert!(sum < period, "{sum:?}");
        }
    }

    proptest! {
        /// The verdict is what a look back over all results gives.
        #[test]
        fn verdict_is_that_of_the_last_long_enough_run(
            results in prop::collection::vec(any::<bool>(), 0..40),
            success in 1u32..4, failure in 1u32..4,
        ) {
            let pace = pace(success, failure);
            let mut tally = Tally::default();
            let mut verdict = None;
            for result in &results {
                if let Some(changed) = tally.take(*result, &pace) {
                    verdict = Some(changed);
                }
            }
            let mut naive = None;
            for end in 1..=results.len() {
                let last = results[end - 1];
                let run = results[..end].iter().rev().take_while(|r| **r == last).count();
                let needed = if last { success } else { failure };
                if run >= needed as usize {
                    naive = Some(last);
                }
            }
            prop_assert_eq!(verdict, naive);
        }
    }
}
