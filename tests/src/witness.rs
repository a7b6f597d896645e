//! Clients that write, read and watch through all members while those are broken, and remember all that they were told.
//! What they remember is judged afterwards (`judge`): no acknowledged write is lost, no read is stale, and every watch
//! has every change once and in order.
//!
//! A register is a ConfigMap that one writer alone changes, with the version that it has read as condition, and every
//! attempt to write bears a number of its own. So a later value is a higher number, whatever became of attempts without answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, WatchEvent, WatchParams};
use kube::{Client, Error};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::members::Members;

mod judge;

/// What one request may take before its outcome counts as unknown.
const PATIENCE: Duration = Duration::from_secs(5);
/// A watch over which nothing comes for so long is begun anew at another member.
const SILENCE: Duration = Duration::from_secs(6);
/// After a refusal.
const PAUSE: Duration = Duration::from_millis(20);
const COLLECTION: &str = "/api/v1/namespaces/default/configmaps";

/// How an attempt to write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Acknowledged, at this revision.
    Done(u64),
    /// It has not happened, says the server.
    Refused,
    Unknown,
}

/// An attempt to write `number` to a register.
#[derive(Debug, Clone, Copy)]
struct Write {
    register: usize,
    number: u64,
    ended: Instant,
    end: End,
}

/// A linearizable read of a register. A register that is not there reads as 0.
#[derive(Debug, Clone, Copy)]
struct Read {
    register: usize,
    member: u8,
    number: u64,
    started: Instant,
    ended: Instant,
}

/// A linearizable list, which bears the revision of the whole store.
#[derive(Debug, Clone, Copy)]
struct List {
    member: u8,
    revision: u64,
    started: Instant,
    ended: Instant,
}

/// What a member lists.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    /// Of the whole store.
    revision: u64,
    /// Name and number of each register.
    registers: Vec<(String, u64)>,
}

/// A change that a watch has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    revision: u64,
    register: String,
    number: u64,
}

#[derive(Debug, Default)]
struct History {
    writes: Vec<Write>,
    reads: Vec<Read>,
    lists: Vec<List>,
    /// Of each watch.
    changes: Vec<Vec<Change>>,
    /// How far each watch is, bookmarks among it.
    reached: Vec<u64>,
    /// Watches that were begun anew.
    resumed: u64,
    /// What must never be.
    faults: Vec<String>,
}

#[derive(Debug, Default)]
struct Shared {
    history: Mutex<History>,
    stop: AtomicBool,
    stop_watches: AtomicBool,
}

impl Shared {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().expect("no panic while holding it")
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A client of each member.
#[derive(Clone)]
struct Clients(Vec<(u8, Client)>);

impl Clients {
    fn at(&self, turn: usize) -> &(u8, Client) {
        &self.0[turn % self.0.len()]
    }
}

/// The load, and what it has seen.
pub struct Witness {
    shared: Arc<Shared>,
    clients: Clients,
    registers: usize,
    workers: Vec<JoinHandle<()>>,
    watches: Vec<JoinHandle<()>>,
    started: Instant,
}

/// What a load has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub acknowledged: usize,
    pub unknown: usize,
    pub refused: usize,
    pub reads: usize,
    pub changes: usize,
    pub resumed: u64,
}

impl Witness {
    /// Begins `registers` writers, as many readers, and a watch through each of these members.
    #[track_caller]
    pub fn start(members: &Members, through: &[u8], registers: usize) -> Self {
        let clients = Clients(
            through
                .iter()
                .map(|it| (*it, members.client(*it)))
                .collect(),
        );
        let shared = Arc::new(Shared::default());
        let first = {
            let clients = clients.clone();
            members.run(async move { list(&clients.0[0].1).await.expect("a first list").revision })
        };
        let runtime = members.runtime();
        let mut workers = Vec::new();
        for register in 0..registers {
            let (shared, clients) = (Arc::clone(&shared), clients.clone());
            workers.push(runtime.spawn(write_on(shared, clients, register)));
        }
        for reader in 0..registers {
            let (shared, clients) = (Arc::clone(&shared), clients.clone());
            workers.push(runtime.spawn(read_on(shared, clients, reader, registers)));
        }
        let mut watches = Vec::new();
        for watch in 0..through.len() {
            {
                let mut history = shared.history();
                history.changes.push(Vec::new());
                history.reached.push(first);
            }
            let (shared, clients) = (Arc::clone(&shared), clients.clone());
            watches.push(runtime.spawn(watch_on(shared, clients, watch, first)));
        }
        Self {
            shared,
            clients,
            registers,
            workers,
            watches,
            started: Instant::now(),
        }
    }

    /// How many writes were acknowledged until now.
    pub fn acknowledged(&self) -> usize {
        let history = self.shared.history();
        let done = history.writes.iter().filter(|write| write.is_done());
        done.count()
    }

    /// Waits until so many more writes are acknowledged.
    #[track_caller]
    pub fn await_progress(&self, more: usize) {
        let wanted = self.acknowledged() + more;
        crate::process::wait_until("writes to be acknowledged", crate::members::LIMIT, || {
            (self.acknowledged() >= wanted).then_some(())
        });
    }

    /// The longest time without an acknowledgement of anybody, from `since` on until now.
    pub fn longest_gap(&self, since: Instant) -> Duration {
        let history = self.shared.history();
        let mut ends: Vec<Instant> = history
            .writes
            .iter()
            .filter(|write| write.is_done() && write.ended >= since)
            .map(|write| write.ended)
            .collect();
        ends.push(Instant::now());
        ends.sort_unstable();
        let mut last = since;
        let mut longest = Duration::ZERO;
        for end in ends {
            longest = longest.max(end - last);
            last = end;
        }
        longest
    }

    /// Ends the load, waits until every watch has seen what there is, and judges. All members must be there.
    #[track_caller]
    pub fn finish(self, members: &Members) -> Verdict {
        self.shared.stop.store(true, Ordering::Relaxed);
        let workers = self.workers;
        members.run(async move {
            for worker in workers {
                worker.await.expect("no panic of a client");
            }
        });
        let clients = self.clients.clone();
        let finals: Vec<Listed> = members.run(async move {
            let mut finals = Vec::new();
            for (_, client) in &clients.0 {
                finals.push(list(client).await.expect("a last list"));
            }
            finals
        });
        let last = finals.iter().map(|listed| listed.revision).max();
        let last = last.expect("a member");
        // A change of another kind may be the newest: watches of these see it as a bookmark only.
        let newest = {
            let history = self.shared.history();
            let done = history.writes.iter().filter_map(|write| match write.end {
                End::Done(revision) => Some(revision),
                _ => None,
            });
            done.max().unwrap_or(0)
        };
        crate::process::wait_until(
            "every watch to see the last write",
            crate::members::LIMIT,
            || {
                let history = self.shared.history();
                history.reached.iter().all(|it| *it >= newest).then_some(())
            },
        );
        assert!(last >= newest, "a list at {last} after a write at {newest}");
        self.shared.stop_watches.store(true, Ordering::Relaxed);
        for watch in &self.watches {
            watch.abort();
        }
        let history = self.shared.history();
        let judged = judge::judge(&history, &finals, self.registers);
        let of = |end: fn(&End) -> bool| {
            let writes = history.writes.iter();
            writes.filter(|write| end(&write.end)).count()
        };
        let verdict = Verdict {
            acknowledged: of(|end| matches!(end, End::Done(_))),
            unknown: of(|end| *end == End::Unknown),
            refused: of(|end| *end == End::Refused),
            reads: history.reads.len() + history.lists.len(),
            changes: history.changes.iter().map(Vec::len).sum(),
            resumed: history.resumed,
        };
        eprintln!("{:.1?}: {verdict:?}", self.started.elapsed());
        assert!(
            judged.is_empty(),
            "{} faults, the first are:\n{}",
            judged.len(),
            judged[..judged.len().min(20)].join("\n")
        );
        verdict
    }
}

impl Write {
    fn is_done(&self) -> bool {
        matches!(self.end, End::Done(_))
    }
}

fn name(register: usize) -> String {
    format!("register-{register}")
}

fn revision(object: &Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str();
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn number(object: &Value) -> u64 {
    let text = object["data"]["number"].as_str();
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// `Err(None)`: no answer in time.
async fn ask(client: &Client, request: http::Request<Vec<u8>>) -> Result<Value, Option<Error>> {
    match tokio::time::timeout(PATIENCE, client.request::<Value>(request)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Some(error)),
        Err(_) => Err(None),
    }
}

fn request(method: &str, path: &str, body: Option<&Value>) -> http::Request<Vec<u8>> {
    let body = body.map(Value::to_string).unwrap_or_default();
    http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(body.into_bytes())
        .expect("a request")
}

fn code(error: &Option<Error>) -> Option<u16> {
    match error {
        Some(Error::Api(status)) => Some(status.code),
        _ => None,
    }
}

/// The store's revision, and all registers.
async fn list(client: &Client) -> Result<Listed, Option<Error>> {
    let answer = ask(client, request("GET", COLLECTION, None)).await?;
    let items = answer["items"].as_array().into_iter().flatten();
    let registers = items
        .filter(|item| item["data"]["number"].is_string())
        .map(|item| {
            let name = item["metadata"]["name"].as_str().unwrap_or_default();
            (name.to_owned(), number(item))
        });
    Ok(Listed {
        revision: revision(&answer),
        registers: registers.collect(),
    })
}

/// Version and value of a register, as a linearizable read says; the read is remembered.
async fn read(shared: &Shared, at: &(u8, Client), register: usize) -> Option<(u64, u64)> {
    let (member, client) = at;
    let started = Instant::now();
    let path = format!("{COLLECTION}/{}", name(register));
    let (version, number) = match ask(client, request("GET", &path, None)).await {
        Ok(object) => (revision(&object), number(&object)),
        Err(error) if code(&error) == Some(404) => (0, 0),
        Err(_) => return None,
    };
    shared.history().reads.push(Read {
        register,
        member: *member,
        number,
        started,
        ended: Instant::now(),
    });
    Some((version, number))
}

async fn write_on(shared: Arc<Shared>, clients: Clients, register: usize) {
    let mut turn = register;
    let mut attempt = 0;
    // The version that the next write is to replace, where that is known.
    let mut known = Some(0);
    while !shared.stopped() {
        let at = clients.at(turn);
        let Some(version) = known else {
            match read(&shared, at, register).await {
                Some((version, _)) => known = Some(version),
                None => {
                    turn += 1;
                    tokio::time::sleep(PAUSE).await;
                }
            }
            continue;
        };
        attempt += 1;
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name(register)},
            "data": {"number": attempt.to_string()},
        });
        let request = match version {
            0 => request("POST", COLLECTION, Some(&object)),
            _ => {
                object["metadata"]["resourceVersion"] = version.to_string().into();
                let path = format!("{COLLECTION}/{}", name(register));
                request("PUT", &path, Some(&object))
            }
        };
        let outcome = ask(&at.1, request).await;
        let end = match &outcome {
            Ok(object) => End::Done(revision(object)),
            // Of these Kubernetes says that nothing was done.
            Err(error) if matches!(code(error), Some(409 | 429 | 503 | 507)) => End::Refused,
            Err(_) => End::Unknown,
        };
        known = match end {
            End::Done(version) => Some(version),
            _ => None,
        };
        shared.history().writes.push(Write {
            register,
            number: attempt,
            ended: Instant::now(),
            end,
        });
        if end == End::Refused || end == End::Unknown {
            turn += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn read_on(shared: Arc<Shared>, clients: Clients, reader: usize, registers: usize) {
    let mut turn = reader;
    while !shared.stopped() {
        turn += 1;
        let at = clients.at(turn);
        let done = match turn % 5 {
            0 => {
                let started = Instant::now();
                let listed = list(&at.1).await;
                if let Ok(Listed { revision, .. }) = &listed {
                    shared.history().lists.push(List {
                        member: at.0,
                        revision: *revision,
                        started,
                        ended: Instant::now(),
                    });
                }
                listed.is_ok()
            }
            _ => read(&shared, at, (turn / 2) % registers).await.is_some(),
        };
        let pause = if done { PAUSE / 4 } else { PAUSE };
        tokio::time::sleep(pause).await;
    }
}

/// Follows all changes from `from` on, through one member after the other.
async fn watch_on(shared: Arc<Shared>, clients: Clients, watch: usize, from: u64) {
    let mut turn = watch;
    let mut reached = from;
    while !shared.stop_watches.load(Ordering::Relaxed) {
        let (member, client) = clients.at(turn);
        let api = Api::<ConfigMap>::namespaced(client.clone(), "default");
        let parameters = WatchParams::default().timeout(60);
        let from = reached.to_string();
        let open = api.watch(&parameters, &from);
        let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, open).await else {
            turn += 1;
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let mut stream = stream.boxed();
        while let Ok(Ok(Some(event))) = tokio::time::timeout(SILENCE, stream.try_next()).await {
            let mut history = shared.history();
            let object = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => object,
                WatchEvent::Deleted(object) => object,
                WatchEvent::Bookmark(mark) => {
                    let at = mark.metadata.resource_version.parse().unwrap_or(0);
                    if at < reached {
                        let fault =
                            format!("watch {watch}: bookmark {at} of m{member} after {reached}");
                        history.faults.push(fault);
                    }
                    reached = at;
                    history.reached[watch] = reached;
                    continue;
                }
                WatchEvent::Error(status) => {
                    if status.code == 410 {
                        let fault =
                            format!("watch {watch}: m{member} has lost what is after {reached}");
                        history.faults.push(fault);
                    }
                    break;
                }
            };
            let version = object.metadata.resource_version.unwrap_or_default();
            let at = version.parse().unwrap_or(0);
            if at <= reached {
                let fault = format!("watch {watch}: m{member} shows {at} after {reached}");
                history.faults.push(fault);
            }
            reached = at;
            history.reached[watch] = reached;
            let data = object.data.unwrap_or_default();
            let number = data.get("number").and_then(|text| text.parse().ok());
            if let Some(number) = number {
                let register = object.metadata.name.unwrap_or_default();
                history.changes[watch].push(Change {
                    revision: at,
                    register,
                    number,
                });
            }
        }
        shared.history().resumed += 1;
        turn += 1;
    }
}
