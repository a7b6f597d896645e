//! Bindings as a client sees them: a watch on the pods that have a node.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use http::Method;
use http_body_util::BodyExt as _;
use tokio::task::JoinHandle;

use super::objects::NAMESPACE;
use crate::rest::Connection;

/// How an event begins of a pod that has come into the selection: it was bound.
const BOUND: &[u8] = b"{\"type\":\"ADDED\"";
/// The watch is over.
const ERROR: &[u8] = b"{\"type\":\"ERROR\"";

/// When bindings were seen.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) count: u64,
    pub(super) first: Option<Instant>,
    pub(super) last: Option<Instant>,
}

impl Seen {
    fn more(&mut self, count: u64, now: Instant) {
        if count == 0 {
            return;
        }
        self.count += count;
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    /// From the first to the last; `None` of less than two moments.
    pub(super) fn per_second(&self) -> Option<f64> {
        let seconds = self.last?.duration_since(self.first?).as_secs_f64();
        (seconds > 0.0).then(|| self.count as f64 / seconds)
    }
}

/// Watches until it is dropped.
pub(super) struct Watcher {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watcher {
    /// Sees what is bound from now on.
    pub(super) async fn start(mut connection: Connection) -> anyhow::Result<Self> {
        let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
        let list = connection.get(&format!("{pods}?limit=1")).await?;
        let revision = list["metadata"]["resourceVersion"]
            .as_str()
            .context("a revision")?;
        let path = format!(
            "{pods}?watch=true&resourceVersion={revision}&fieldSelector=spec.nodeName%21%3D"
        );
        let response = connection.send(Method::GET, &path, "").await?;
        ensure!(response.status().is_success(), "no watch: {response:?}");
        let mut body = response.into_body();
        let seen = Arc::<Mutex<Seen>>::default();
        let shared = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let _connection = connection;
            let mut lines = Lines::default();
            while let Some(frame) = body.frame().await {
                if let Ok(data) = frame?.into_data() {
                    let bound = lines.bound_in(&data)?;
                    let mut seen = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.more(bound, Instant::now());
                }
            }
            bail!("the watch on bound pods has ended")
        });
        Ok(Self { seen, task })
    }

    /// An error when the watch has ended.
    pub(super) async fn seen(&mut self) -> anyhow::Result<Seen> {
        if self.task.is_finished() {
            (&mut self.task).await??;
        }
        Ok(*self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Events of which only the beginning is looked at.
#[derive(Debug, Default)]
struct Lines {
    /// Of a line that goes on in the next piece.
    head: Vec<u8>,
}

impl Lines {
    fn bound_in(&mut self, mut data: &[u8]) -> anyhow::Result<u64> {
        let mut bound = 0;
        while !data.is_empty() {
            let end = data.iter().position(|byte| *byte == b'\n');
            let line = &data[..end.unwrap_or(data.len())];
            let room = BOUND.len() - self.head.len();
            self.head.extend_from_slice(&line[..line.len().min(room)]);
            let Some(end) = end else { break };
            ensure!(self.head != ERROR, "the watch on bound pods was cut off");
            bound += u64::from(self.head == BOUND);
            self.head.clear();
            data = &data[end + 1..];
        }
        Ok(bound)
    }
}

/// What the scheduler says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Decisions {
    batches: f64,
    seconds: f64,
}

impl Decisions {
    pub(super) async fn read(connection: &mut Connection) -> anyhow::Result<Self> {
        let text = connection.ask(Method::GET, "/metrics", "").await?;
        Self::of(&String::from_utf8_lossy(&text)).context("no metric of decisions")
    }

    fn of(text: &str) -> Option<Self> {
        let value = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| {
                let (key, value) = line.split_once(' ')?;
                (key == name).then(|| value.parse::<f64>().ok())?
            })
        };
        Some(Self {
            batches: value("waggle_scheduler_decision_seconds_count")?,
            seconds: value("waggle_scheduler_decision_seconds_sum")?,
        })
    }

    /// Seconds for one decision, the mean of those since then.
    pub(super) fn mean_since(&self, before: &Self) -> Option<f64> {
        let batches = self.batches - before.batches;
        (batches > 0.0).then(|| (self.seconds - before.seconds) / batches)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;

    #[test]
    fn only_pods_that_come_into_the_selection_are_bound() {
        let mut lines = Lines::default();
        let stream = b"{\"type\":\"ADDED\",\"object\":{}}\n{\"type\":\"MODIFIED\",\"object\":{}}\n{\"type\":\"ADDED\",\"object\":{}}\n";
        for size in 1..stream.len() {
            let pieces = stream.chunks(size).map(|piece| lines.bound_in(piece));
            let all: u64 = pieces.map(Result::unwrap).sum();
            assert_eq!(all, 2, "in pieces of {size}");
        }
        assert!(
            lines
                .bound_in(b"{\"type\":\"ERROR\",\"object\":{}}\n")
                .is_err()
        );
    }

    #[test]
    fn the_rate_is_from_the_first_to_the_last() {
        let began = Instant::now();
        let mut seen = Seen::default();
        seen.more(0, began);
        assert_eq!(seen.per_second(), None);
        seen.more(100, began + Duration::from_secs(1));
        seen.more(500, began + Duration::from_secs(2));
        seen.more(0, began + Duration::from_secs(9));
        assert_eq!(seen.per_second(), Some(600.0));
    }

    #[test]
    fn decisions_are_read_from_the_metrics() {
        let text = "# HELP x y\nwaggle_scheduler_decision_seconds_sum 0.5\nwaggle_scheduler_decision_seconds_count 10\n";
        let decisions = Decisions::of(text).unwrap();
        let before = Decisions {
            batches: 5.0,
            seconds: 0.25,
        };
        assert_eq!(decisions.mean_since(&before), Some(0.05));
        assert_eq!(decisions.mean_since(&decisions), None);
        assert_eq!(Decisions::of("nothing 1\n"), None);
    }
}
