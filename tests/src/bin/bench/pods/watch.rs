//! Follows the benchmark's pods by one watch: which are there, which are Ready, and when that changed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::rest::Connection;

const PATIENCE: Duration = Duration::from_secs(300);

/// When a pod was first seen Ready; `None` before.
type Pods = BTreeMap<String, Option<Instant>>;

#[derive(Debug, Default)]
struct Seen {
    pods: Mutex<Pods>,
    changed: Notify,
}

pub(super) struct PodWatch {
    seen: Arc<Seen>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl PodWatch {
    /// Sees all that happens after it returns.
    pub(super) async fn start(mut connection: Connection, namespace: &str) -> anyhow::Result<Self> {
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let list = connection.get(&path).await?;
        let revision = list["metadata"]["resourceVersion"]
            .as_str()
            .context("a revision")?;
        let path = format!("{path}?watch=true&resourceVersion={revision}");
        let response = connection.send(Method::GET, &path, "").await?;
        ensure!(response.status().is_success(), "no watch: {response:?}");
        let seen = Arc::new(Seen::default());
        let noted = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let _connection = connection;
            let mut body = response.into_body();
            let mut lines = Lines::default();
            while let Some(frame) = body.frame().await {
                if let Ok(data) = frame?.into_data() {
                    for line in lines.push(&data) {
                        noted.note(&serde_json::from_slice(&line)?);
                    }
                }
            }
            anyhow::bail!("the watch has ended")
        });
        Ok(Self { seen, task })
    }

    /// When each of these was Ready, once all are.
    pub(super) async fn ready(&self, names: &[String]) -> anyhow::Result<Vec<Instant>> {
        self.until(|pods| {
            let times = names.iter().map(|name| pods.get(name).copied().flatten());
            times.collect::<Option<Vec<_>>>()
        })
        .await
    }

    /// Returns when there is no pod any more.
    pub(super) async fn gone(&self) -> anyhow::Result<()> {
        self.until(|pods| pods.is_empty().then_some(())).await
    }

    async fn until<T>(&self, mut probe: impl FnMut(&Pods) -> Option<T>) -> anyhow::Result<T> {
        let began = Instant::now();
        loop {
            let changed = self.seen.changed.notified();
            if let Some(found) = probe(&self.seen.pods.lock().expect("no panic while it is held")) {
                return Ok(found);
            }
            ensure!(!self.task.is_finished(), "the watch of the pods has ended");
            ensure!(
                began.elapsed() < PATIENCE,
                "pods take more than {PATIENCE:?}"
            );
            // A wake-up that came in between is not missed for long.
            let _ = tokio::time::timeout(Duration::from_millis(100), changed).await;
        }
    }
}

impl Drop for PodWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Seen {
    fn note(&self, event: &Value) {
        let now = Instant::now();
        let pod = &event["object"];
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let mut pods = self.pods.lock().expect("no panic while it is held");
        if event["type"] == "DELETED" {
            pods.remove(name);
        } else {
            let since = pods.entry(name.to_owned()).or_default();
            if is_ready(pod) {
                since.get_or_insert(now);
            }
        }
        self.changed.notify_waiters();
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let mut ready = conditions.filter(|condition| condition["type"] == "Ready");
    ready.any(|condition| condition["status"] == "True")
}

/// Lines of a body that comes in pieces.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Those that are complete now.
    fn push(&mut self, data: &[u8]) -> Vec<Vec<u8>> {
        let mut complete = Vec::new();
        for part in data.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(part);
            if part.ends_with(b"\n") {
                complete.push(std::mem::take(&mut self.begun));
            }
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_come_in_pieces() {
        let mut lines = Lines::default();
        assert!(lines.push(b"a").is_empty());
        assert_eq!(lines.push(b"b\nc\nd"), [b"ab\n".to_vec(), b"c\n".to_vec()]);
        assert_eq!(lines.push(b"\n"), [b"d\n".to_vec()]);
    }

    #[test]
    fn a_pod_is_ready_from_the_first_time_until_it_goes() {
        let seen = Seen::default();
        let event = |kind: &str, ready: &str| {
            json!({"type": kind, "object": {"metadata": {"name": "p"},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}}})
        };
        let since = || seen.pods.lock().expect("a lock").get("p").copied();
        seen.note(&event("ADDED", "False"));
        assert_eq!(since(), Some(None));
        seen.note(&event("MODIFIED", "True"));
        let first = since();
        assert!(matches!(first, Some(Some(_))));
        seen.note(&event("MODIFIED", "True"));
        assert_eq!(since(), first);
        seen.note(&event("DELETED", "True"));
        assert_eq!(since(), None);
    }
}
