//! Bindings as a client sees them: a watch on the pods that have a node. As any client, it begins again where it was when
//! the server cuts it off as too slow, and lists when what it wants to begin with is no longer known there.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::objects::NAMESPACE;
use crate::rest::Connection;

/// How an event begins of a pod that has come into the selection: it was bound.
const BOUND: &[u8] = b"{\"type\":\"ADDED\"";
/// The watch is over.
const ERROR: &[u8] = b"{\"type\":\"ERROR\"";
/// The version is the first of the metadata.
const VERSION: &[u8] = b"\"metadata\":{\"resourceVersion\":\"";
/// How much of an event is looked at: until behind its version.
const HEAD: usize = 160;
/// The same of an error, which is read as a whole.
const WHOLE: usize = 16 * 1024;
const SELECTOR: &str = "fieldSelector=spec.nodeName%21%3D";

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
        let (before, version) = bound_now(&mut connection).await?;
        let seen = Arc::<Mutex<Seen>>::default();
        let follower = Follower {
            connection,
            before,
            version,
            seen: Arc::clone(&seen),
        };
        let task = tokio::spawn(follower.follow());
        Ok(Self { seen, task })
    }

    /// An error when there is no watch any more.
    pub(super) async fn seen(&mut self) -> anyhow::Result<Seen> {
        if self.task.is_finished() {
            (&mut self.task).await??;
        }
        Ok(*self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn pods() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/pods")
}

/// How many pods have a node, and the version of that.
async fn bound_now(connection: &mut Connection) -> anyhow::Result<(u64, String)> {
    let list = connection.get(&format!("{}?{SELECTOR}", pods())).await?;
    let items = list["items"].as_array().context("a list")?;
    let version = list["metadata"]["resourceVersion"].as_str();
    Ok((items.len() as u64, version.context("a version")?.to_owned()))
}

struct Follower {
    connection: Connection,
    /// Pods that were bound when it began.
    before: u64,
    /// Of the last event.
    version: String,
    seen: Arc<Mutex<Seen>>,
}

impl Follower {
    async fn follow(mut self) -> anyhow::Result<()> {
        loop {
            let version = &self.version;
            let path = format!("{}?watch=true&resourceVersion={version}&{SELECTOR}", pods());
            let response = self.connection.send(Method::GET, &path, "").await?;
            let moved = match response.status() {
                StatusCode::GONE => false,
                status if status.is_success() => self.read(response.into_body()).await?,
                _ => bail!("no watch: {response:?}"),
            };
            if !moved {
                self.list_again().await?;
            }
        }
    }

    /// Until the watch is over. Whether any event came.
    async fn read(&mut self, mut body: Incoming) -> anyhow::Result<bool> {
        let mut lines = Lines::default();
        let mut moved = false;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            let news = lines.news_in(&data)?;
            self.note(news.bound);
            if let Some(version) = news.version {
                moved = true;
                self.version = version;
            }
            if news.cut_off {
                break;
            }
        }
        Ok(moved)
    }

    /// What the list has and no watch has told. No pod goes, or loses its node, while it is watched.
    async fn list_again(&mut self) -> anyhow::Result<()> {
        let (bound, version) = bound_now(&mut self.connection).await?;
        self.version = version;
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.before + seen.count;
        drop(seen);
        self.note(bound.saturating_sub(known));
        Ok(())
    }

    fn note(&self, bound: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.more(bound, Instant::now());
    }
}

/// What a piece of a watch's stream tells.
#[derive(Debug, Default, PartialEq)]
struct News {
    bound: u64,
    /// Of the last event.
    version: Option<String>,
    /// It has to begin again.
    cut_off: bool,
}

/// Events of which only the beginning is looked at.
#[derive(Debug, Default)]
struct Lines {
    /// Of a line that goes on in the next piece.
    head: Vec<u8>,
}

impl Lines {
    fn news_in(&mut self, mut data: &[u8]) -> anyhow::Result<News> {
        let mut news = News::default();
        while !data.is_empty() {
            let end = data.iter().position(|byte| *byte == b'\n');
            self.keep(&data[..end.unwrap_or(data.len())]);
            let Some(end) = end else { break };
            if self.head.starts_with(ERROR) {
                let event: Value = serde_json::from_slice(&self.head)?;
                ensure!(event["object"]["code"] == 410, "the watch failed: {event}");
                news.cut_off = true;
            } else {
                news.bound += u64::from(self.head.starts_with(BOUND));
                news.version = Some(version(&self.head).context("an event has no version")?);
            }
            self.head.clear();
            data = &data[end + 1..];
        }
        Ok(news)
    }

    fn keep(&mut self, line: &[u8]) {
        let mut line = line;
        for most in [HEAD, WHOLE] {
            let room = most.saturating_sub(self.head.len()).min(line.len());
            self.head.extend_from_slice(&line[..room]);
            line = &line[room..];
            if !self.head.starts_with(ERROR) {
                break;
            }
        }
    }
}

fn version(head: &[u8]) -> Option<String> {
    let mut places = head.windows(VERSION.len());
    let at = places.position(|place| place == VERSION)?;
    let rest = &head[at + VERSION.len()..];
    let end = rest.iter().position(|byte| *byte == b'"')?;
    String::from_utf8(rest[..end].to_vec()).ok()
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

    fn event(kind: &str, version: u32) -> String {
        format!(
            "{{\"type\":\"{kind}\",\"object\":{{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"metadata\":{{\
             \"resourceVersion\":\"{version}\",\"name\":\"{}\"}}}}}}\n",
            "p".repeat(200)
        )
    }

    #[test]
    fn only_pods_that_come_into_the_selection_are_bound() {
        let mut lines = Lines::default();
        let stream = [event("ADDED", 7), event("MODIFIED", 8), event("ADDED", 11)].concat();
        for size in 1..stream.len() {
            let pieces = stream.as_bytes().chunks(size);
            let pieces = pieces.map(|piece| lines.news_in(piece).unwrap());
            let all: Vec<News> = pieces.collect();
            let bound: u64 = all.iter().map(|news| news.bound).sum();
            assert_eq!(bound, 2, "in pieces of {size}");
            let last = all.iter().rev().find_map(|news| news.version.clone());
            assert_eq!(last.as_deref(), Some("11"), "in pieces of {size}");
        }
        assert!(lines.news_in(b"{\"type\":\"ADDED\"}\n").is_err());
    }

    #[test]
    fn who_is_cut_off_begins_again_and_any_other_error_is_one() {
        let mut lines = Lines::default();
        let error = |code: u32| {
            let why = "w".repeat(500);
            format!("{{\"type\":\"ERROR\",\"object\":{{\"message\":\"{why}\",\"code\":{code}}}}}\n")
        };
        let stream = event("ADDED", 7) + &error(410);
        for size in 1..stream.len() {
            let pieces = stream.as_bytes().chunks(size);
            let pieces = pieces.map(|piece| lines.news_in(piece).unwrap());
            let all: Vec<News> = pieces.collect();
            assert!(all.last().unwrap().cut_off, "in pieces of {size}");
            let versions = all.iter().filter_map(|news| news.version.clone());
            assert_eq!(versions.collect::<Vec<_>>(), ["7"], "in pieces of {size}");
        }
        assert!(lines.news_in(error(500).as_bytes()).is_err());
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
