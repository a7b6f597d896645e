//! How long nobody gets a write acknowledged when the leader is killed.
//!
//! Some clients write one after the other; one that gets an error or no answer goes to the next member, as clients of
//! both systems do. What is measured is the longest time between two acknowledgements to anybody.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::session::{Session, value};

/// After which a client asks another member.
const TRY: Duration = Duration::from_millis(1_000);
/// Between two attempts that are refused at once.
const PAUSE: Duration = Duration::from_millis(5);
/// For how long writes go on before the leader's death.
pub(super) const BEFORE: Duration = Duration::from_secs(1);

/// When writes were acknowledged.
#[derive(Debug, Clone, Default)]
pub(super) struct Acknowledged(Arc<Mutex<Vec<Instant>>>);

impl Acknowledged {
    fn note(&self) {
        let mut all = self.0.lock().expect("no panic while it is held");
        all.push(Instant::now());
    }

    /// The longest time without any from `from` to `until`, in seconds.
    pub(super) fn longest_gap(&self, from: Instant, until: Instant) -> f64 {
        let all = self.0.lock().expect("no panic while it is held");
        longest_gap(&all, from, until).as_secs_f64()
    }
}

fn longest_gap(all: &[Instant], from: Instant, until: Instant) -> Duration {
    let mut times: Vec<Instant> = all
        .iter()
        .copied()
        .filter(|time| (from..until).contains(time))
        .collect();
    times.extend([from, until]);
    times.sort_unstable();
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    gaps.max().unwrap_or_default()
}

/// Writes to its key for ever, to whichever of the members answers.
pub(super) async fn write<S: Session>(
    mut sessions: Vec<S>,
    first: usize,
    key: u32,
    acknowledged: Acknowledged,
) {
    let mut member = first;
    let mut number = 0;
    loop {
        number += 1;
        let count = sessions.len();
        let session = &mut sessions[member % count];
        let value = value(number);
        match tokio::time::timeout(TRY, session.write(key, &value)).await {
            Ok(Ok(())) => acknowledged.note(),
            Ok(Err(_)) => {
                member += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(_) => member += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_at_the_end_counts_too() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let gap = |all: &[Instant]| longest_gap(all, at(0), at(1_000)).as_millis();
        assert_eq!(gap(&[]), 1_000);
        assert_eq!(gap(&[at(100), at(900), at(200)]), 700);
        assert_eq!(gap(&[at(100), at(200)]), 800);
        // What happens later is no answer to the question.
        assert_eq!(gap(&[at(600), at(5_000)]), 600);
    }
}
