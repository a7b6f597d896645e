//! A network in memory: messages take time, get lost, and do not pass where it is cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::BoxFuture;
use prost::Message;
use proto::raft::v1 as pb;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::AbortHandle;

use crate::store::peers::inbox::Inbox;
use crate::store::peers::{CallError, Peer, Transport};
use crate::store::snapshot::Image;

/// After this time a connection counts as dead over which nothing gets through, as with real ones.
const PROBED: Duration = Duration::from_secs(4);

/// How well messages get through.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Weather {
    pub(in crate::store) delay: (u64, u64),
    /// Of a thousand messages.
    pub(in crate::store) lost: u32,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            delay: (1, 4),
            lost: 0,
        }
    }
}

#[derive(Clone)]
pub(in crate::store) struct Net {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    rng: StdRng,
    weather: Weather,
    /// From whom to whom nothing passes.
    cut: BTreeSet<(u64, u64)>,
    hosts: BTreeMap<u64, Host>,
    /// Questions so far, by who asks, who is asked, and what.
    asked: BTreeMap<(u64, u64, &'static str), u64>,
}

fn kind(request: &pb::PeerRequest) -> &'static str {
    use pb::peer_request::Request;
    match &request.request {
        Some(Request::Append(append)) if append.entries.is_empty() => "heartbeat",
        Some(Request::Append(_)) => "append",
        Some(Request::Vote(_)) => "vote",
        Some(Request::Propose(_)) => "propose",
        Some(Request::ReadIndex(_)) => "read",
        Some(Request::Report(_)) => "report",
        _ => "other",
    }
}

/// A member that runs.
struct Host {
    life: u64,
    inbox: Inbox,
    /// What it does for others ends with it.
    tasks: Vec<AbortHandle>,
}

impl Net {
    pub(in crate::store) fn new(seed: u64) -> Self {
        let inner = Inner {
            rng: StdRng::seed_from_u64(seed),
            weather: Weather::default(),
            cut: BTreeSet::new(),
            hosts: BTreeMap::new(),
            asked: BTreeMap::new(),
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// What was asked since the last time, for those who look for the cause of something.
    pub(in crate::store) fn take_asked(&self) -> String {
        format!("{:?}", std::mem::take(&mut self.lock().asked))
    }

    /// Messages of the log, heart-beats too, from one member to another since then.
    pub(in crate::store) fn appends(&self, from: u64, to: u64) -> u64 {
        let inner = self.lock();
        let kinds = ["append", "heartbeat"].iter();
        kinds
            .filter_map(|kind| inner.asked.get(&(from, to, *kind)))
            .sum()
    }

    /// How the members stand, for the same purpose.
    pub(in crate::store) fn describe(&self) -> String {
        let inner = self.lock();
        let hosts = inner.hosts.iter();
        let lines = hosts.map(|(id, host)| format!("\n  member {id}: {}", host.inbox.describe()));
        lines.collect()
    }

    pub(in crate::store) fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    pub(in crate::store) fn cut(&self, from: u64, to: u64) {
        self.lock().cut.insert((from, to));
    }

    /// Between those and all others, both ways.
    pub(in crate::store) fn isolate(&self, some: &[u64], others: &[u64]) {
        for one in some {
            for other in others.iter().filter(|other| !some.contains(other)) {
                self.cut(*one, *other);
                self.cut(*other, *one);
            }
        }
    }

    pub(in crate::store) fn heal(&self) {
        self.lock().cut.clear();
    }

    pub(in crate::store) fn plug_in(&self, id: u64, life: u64, inbox: Inbox) {
        let host = Host {
            life,
            inbox,
            tasks: Vec::new(),
        };
        self.lock().hosts.insert(id, host);
    }

    /// What was under way to it is lost.
    pub(in crate::store) fn unplug(&self, id: u64) {
        if let Some(host) = self.lock().hosts.remove(&id) {
            for task in host.tasks {
                task.abort();
            }
        }
    }

    fn is_up(&self, id: u64, life: u64) -> bool {
        self.lock()
            .hosts
            .get(&id)
            .is_some_and(|host| host.life == life)
    }

    /// What is dead waits for ever.
    async fn await_life(&self, id: u64, life: u64) {
        if !self.is_up(id, life) {
            std::future::pending().await
        }
    }

    pub(in crate::store) fn transport(&self, from: u64, life: u64) -> Arc<dyn Transport> {
        Arc::new(Wire {
            net: self.clone(),
            from,
            life,
        })
    }

    /// How long one message takes; `None` is for ever.
    fn passes(&self, from: u64, to: u64) -> Option<Duration> {
        let mut inner = self.lock();
        let (least, most) = inner.weather.delay;
        let lost = inner.weather.lost;
        let delay = Duration::from_micros(inner.rng.random_range(least * 1_000..=most * 1_000));
        let is_lost = inner.rng.random_range(0..1_000) < lost;
        (!is_lost && !inner.cut.contains(&(from, to))).then_some(delay)
    }

    /// Where it does not get through that is noticed in the end, however long an answer may take: connections
    /// are probed.
    async fn carry(&self, from: u64, to: u64) -> Result<(), CallError> {
        match self.passes(from, to) {
            Some(delay) => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
            None => {
                tokio::time::sleep(PROBED).await;
                Err(lost("the connection is dead"))
            }
        }
    }
}

struct Wire {
    net: Net,
    from: u64,
    life: u64,
}

fn lost(what: &str) -> CallError {
    CallError::Lost(what.to_owned())
}

impl Wire {
    /// Runs `work` at the other side, whether we wait for it or not.
    async fn there<T: Send + 'static>(
        &self,
        to: u64,
        work: impl AsyncFnOnceSend<T>,
    ) -> Result<T, CallError> {
        self.net.await_life(self.from, self.life).await;
        self.net.carry(self.from, to).await?;
        let task = {
            let mut inner = self.net.lock();
            let Some(host) = inner.hosts.get_mut(&to) else {
                return Err(CallError::Unsent(format!(
                    "member {to}: connection refused"
                )));
            };
            let task = tokio::spawn(work.call(host.inbox.clone()));
            host.tasks.retain(|task| !task.is_finished());
            host.tasks.push(task.abort_handle());
            task
        };
        let answer = task.await.map_err(|_| lost("the other side died"))?;
        self.net.carry(to, self.from).await?;
        self.net.await_life(self.from, self.life).await;
        Ok(answer)
    }
}

/// What is done at the other side.
trait AsyncFnOnceSend<T>: Send {
    fn call(self, inbox: Inbox) -> BoxFuture<'static, T>;
}

impl<T, F: FnOnce(Inbox) -> BoxFuture<'static, T> + Send> AsyncFnOnceSend<T> for F {
    fn call(self, inbox: Inbox) -> BoxFuture<'static, T> {
        self(inbox)
    }
}

impl Transport for Wire {
    fn call<'a>(
        &'a self,
        peer: &'a Peer,
        request: pb::PeerRequest,
        patience: Duration,
    ) -> BoxFuture<'a, Result<pb::PeerResponse, CallError>> {
        Box::pin(async move {
            let asked = (self.from, peer.id, kind(&request));
            *self.net.lock().asked.entry(asked).or_default() += 1;
            let bytes = request.encode_to_vec();
            let work = |inbox: Inbox| -> BoxFuture<'static, _> {
                Box::pin(async move {
                    let request = pb::PeerRequest::decode(bytes.as_slice()).unwrap();
                    inbox.answer(request).await
                })
            };
            let answer = tokio::time::timeout(patience, self.there(peer.id, work)).await;
            let answer = answer.map_err(|_| lost("no answer in time"))??;
            let response = answer.map_err(|rejected| lost(&rejected.to_string()))?;
            Ok(pb::PeerResponse::decode(response.encode_to_vec().as_slice()).unwrap())
        })
    }

    fn snapshot<'a>(
        &'a self,
        peer: &'a Peer,
        head: pb::SnapshotHead,
        image: Image,
        patience: Duration,
    ) -> BoxFuture<'a, Result<pb::SnapshotResponse, CallError>> {
        Box::pin(async move {
            let asked = (self.from, peer.id, "snapshot");
            *self.net.lock().asked.entry(asked).or_default() += 1;
            let work = |inbox: Inbox| -> BoxFuture<'static, _> {
                Box::pin(async move {
                    let mut arriving = inbox.begin_snapshot(head)?;
                    for chunk in image.chunks() {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        arriving.push(&chunk)?;
                    }
                    inbox.finish_snapshot(arriving).await
                })
            };
            let answer = tokio::time::timeout(patience, self.there(peer.id, work)).await;
            let answer = answer.map_err(|_| lost("no answer in time"))??;
            answer.map_err(|rejected| lost(&rejected.to_string()))
        })
    }
}
