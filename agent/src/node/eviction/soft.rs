//! Soft thresholds: what must be left in the long run. A pod is ended only when one has been crossed for its grace period, and
//! then it has time to end. Pure.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::plan::{Met, Signal};
use crate::node::host::Usage;
use crate::pods::quantity;

/// How much of a resource must be left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// Bytes, inodes or process ids.
    Absolute(u64),
    /// Of what there is in all.
    Percent(u8),
}

/// `memory.available<500Mi`: a threshold as kubelets are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SoftThreshold {
    signal: Signal,
    least: Amount,
    shown: String,
    /// How long it must have been crossed before a pod is ended.
    pub grace: Duration,
}

impl SoftThreshold {
    /// The name of what it is about, `memory.available`.
    pub fn signal(&self) -> &'static str {
        self.signal.name()
    }
}

/// Why a text is no threshold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ThresholdError {
    #[error("expected SIGNAL<AMOUNT, such as memory.available<500Mi, not {0:?}")]
    Form(String),
    #[error(
        "unknown signal {0:?}: there are memory.available, nodefs.available, nodefs.inodesFree and pid.available"
    )]
    Signal(String),
    #[error("{0:?} is neither an amount nor a percentage")]
    Amount(String),
}

/// Without a grace period, which is given apart.
impl FromStr for SoftThreshold {
    type Err = ThresholdError;

    fn from_str(text: &str) -> Result<Self, ThresholdError> {
        let (name, amount) = text
            .split_once('<')
            .ok_or_else(|| ThresholdError::Form(text.to_owned()))?;
        let signal = Signal::ALL.into_iter().find(|it| it.name() == name);
        let signal = signal.ok_or_else(|| ThresholdError::Signal(name.to_owned()))?;
        let wrong = || ThresholdError::Amount(amount.to_owned());
        let least = match amount.strip_suffix('%') {
            Some(percent) => {
                let percent: u8 = percent.parse().map_err(|_| wrong())?;
                Amount::Percent(Some(percent).filter(|it| *it <= 100).ok_or_else(wrong)?)
            }
            None => {
                let amount = quantity::whole(&Quantity(amount.to_owned()));
                Amount::Absolute(amount.ok_or_else(wrong)?)
            }
        };
        Ok(Self {
            signal,
            least,
            shown: amount.to_owned(),
            grace: Duration::ZERO,
        })
    }
}

/// Which thresholds are crossed, and since when.
#[derive(Debug, Default)]
pub(super) struct Soft {
    thresholds: Vec<SoftThreshold>,
    /// By the threshold's index, on a clock that begins with the agent.
    since: BTreeMap<usize, Duration>,
}

impl Soft {
    pub(super) fn new(thresholds: Vec<SoftThreshold>) -> Self {
        Self {
            thresholds,
            since: BTreeMap::new(),
        }
    }

    /// Those that are crossed now, and of them those that have been for their grace periods.
    pub(super) fn note(&mut self, usage: &Usage, now: Duration) -> (Vec<Met>, Vec<Met>) {
        let (mut met, mut due) = (Vec::new(), Vec::new());
        for (index, threshold) in self.thresholds.iter().enumerate() {
            let (left, whole) = threshold.signal.left(usage);
            let least = match threshold.least {
                Amount::Absolute(least) => least,
                Amount::Percent(percent) => whole / 100 * u64::from(percent),
            };
            if left >= least {
                self.since.remove(&index);
                continue;
            }
            let crossed = Met {
                signal: threshold.signal,
                threshold: threshold.shown.clone(),
                available: threshold.signal.amount(left),
            };
            let since = *self.since.entry(index).or_insert(now);
            if now.saturating_sub(since) >= threshold.grace {
                due.push(crossed.clone());
            }
            met.push(crossed);
        }
        (met, due)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn thresholds_are_written_as_for_kubelets() {
        let parsed: SoftThreshold = "memory.available<1.5Gi".parse().unwrap();
        assert_eq!(parsed.least, Amount::Absolute(1536 << 20));
        assert_eq!(parsed.signal(), "memory.available");
        let parsed: SoftThreshold = "nodefs.inodesFree<5%".parse().unwrap();
        assert_eq!(parsed.least, Amount::Percent(5));
        for (text, why) in [
            ("memory.available=5", "expected SIGNAL<AMOUNT"),
            ("cpu.available<5", "unknown signal"),
            ("pid.available<101%", "neither"),
            ("pid.available<many", "neither"),
        ] {
            let error = text.parse::<SoftThreshold>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_threshold_must_be_crossed_without_a_break_for_its_grace_period() {
        let seconds = Duration::from_secs;
        let mut memory: SoftThreshold = "memory.available<100Ki".parse().unwrap();
        memory.grace = seconds(30);
        let mut pids: SoftThreshold = "pid.available<10%".parse().unwrap();
        pids.grace = seconds(10);
        let mut soft = Soft::new(vec![memory, pids]);
        let usage = |memory: u64, pids: u64| Usage {
            memory_available_bytes: memory,
            pids,
            pids_max: 100,
            ..Usage::default()
        };
        for (now, memory, pids, met, due) in [
            (0, 200 << 10, 50, 0, 0),
            (10, 50 << 10, 50, 1, 0),
            (39, 50 << 10, 95, 2, 0),
            (40, 50 << 10, 95, 2, 1),
            (41, 200 << 10, 95, 1, 0),
            (49, 50 << 10, 95, 2, 1),
            (78, 50 << 10, 50, 1, 0),
            (79, 50 << 10, 50, 1, 1),
        ] {
            let (crossed, long) = soft.note(&usage(memory, pids), seconds(now));
            assert_eq!((crossed.len(), long.len()), (met, due), "at {now}");
        }
        let (_, due) = soft.note(&usage(50 << 10, 50), seconds(100));
        assert_eq!(
            due,
            [Met {
                signal: Signal::Memory,
                threshold: "100Ki".to_owned(),
                available: "50Ki".to_owned()
            }]
        );
    }
}
