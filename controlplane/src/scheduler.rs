//! Filters and scores as pure functions over a cached snapshot; binds in batches.
//!
//! Informer handlers keep [`State`] up to date; the loop takes pods from its queue, decides against the
//! snapshot with earlier decisions assumed, and binds a batch in one transaction while the next is decided.
//! What follows from a decision is done in `execute`.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, Subscription};
use crate::registry::Client;

mod affinity;
mod condition;
mod decide;
mod execute;
mod filter;
mod interpod;
mod metrics;
mod news;
mod node_info;
mod preempt;
mod queue;
mod request;
mod resources;
mod score;
mod selector;
mod snapshot;
mod spread;
mod state;
mod volumes;

#[cfg(test)]
mod tests;

pub(crate) use affinity::{is_asked_for, selects, tolerates};
pub(crate) use execute::reserve;
pub(crate) use metrics::SchedulerMetrics;
pub(crate) use resources::milli;
pub(crate) use selector::Selector;
pub(crate) use volumes::matching;

use state::State;

const NAME: &str = "default-scheduler";
/// Pods bound in one transaction.
const BATCH: usize = 256;
/// Transactions under way at once.
const BATCHES: usize = 4;

#[derive(Clone)]
struct Shared {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

impl Shared {
    fn new(seed: u64, lookup: Arc<dyn volumes::Lookup>) -> Self {
        Self {
            state: Arc::new(Mutex::new(State::new(seed, lookup))),
            changed: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}

/// Runs the scheduler until `shutdown`. Call it while this member leads.
pub(crate) async fn run(
    client: Client,
    cache: Cache,
    metrics: SchedulerMetrics,
    shutdown: CancellationToken,
) {
    tokio::select! {
        () = schedule(client.with_manager(NAME), cache, metrics) => {}
        () = shutdown.cancelled() => {}
    }
}

/// Nodes and namespaces first: pods find theirs known.
fn subscribe(cache: &Cache, shared: &Shared) -> Vec<Subscription> {
    let namespaces = {
        let shared = shared.clone();
        cache.namespaces.subscribe(move |delta| {
            let labels = delta.new.map(|new| new.metadata.labels.clone());
            shared
                .lock()
                .namespace_changed(&delta.key.name, labels.map(Option::unwrap_or_default));
            shared.changed.notify_one();
        })
    };
    let nodes = {
        let shared = shared.clone();
        cache.nodes.subscribe(move |delta| {
            shared
                .lock()
                .node_changed(&delta.key.name, delta.old, delta.new);
            shared.changed.notify_one();
        })
    };
    let pods = {
        let shared = shared.clone();
        cache.pods.subscribe(move |delta| {
            if shared
                .lock()
                .pod_changed(delta.old, delta.new, Instant::now())
            {
                shared.changed.notify_one();
            }
        })
    };
    let storage = |shared: &Shared| {
        shared.lock().storage_changed();
        shared.changed.notify_one();
    };
    let (first, second, third) = (shared.clone(), shared.clone(), shared.clone());
    let classes = cache.storage_classes.subscribe(move |_| storage(&first));
    let volumes = cache.volumes.subscribe(move |_| storage(&second));
    let claims = cache.claims.subscribe(move |_| storage(&third));
    vec![namespaces, nodes, pods, classes, volumes, claims]
}

async fn schedule(client: Client, cache: Cache, metrics: SchedulerMetrics) {
    cache.synced().await;
    let shared = Shared::new(rand::random(), Arc::new(cache.clone()));
    let _subscriptions = subscribe(&cache, &shared);
    let executor = execute::Executor {
        client,
        cache,
        shared: shared.clone(),
        metrics: metrics.clone(),
        refusals: execute::Refusals::default(),
    };
    let mut under_way = JoinSet::new();
    // Pods that wait for their volumes may do so for minutes: they hold up nobody.
    let mut waiting = JoinSet::new();
    {
        let executor = executor.clone();
        waiting.spawn(async move { executor.write_refusals().await });
    }
    loop {
        let started = Instant::now();
        let (outcomes, due) = {
            let mut state = shared.lock();
            let outcomes = state.decide(started);
            let (ready, parked) = state.depths();
            metrics.depths(ready, parked);
            (outcomes, state.next_due())
        };
        if outcomes.is_empty() {
            wait(&shared, due, &mut under_way).await;
            continue;
        }
        metrics.decided(started.elapsed(), outcomes.len());
        while under_way.len() >= BATCHES {
            under_way.join_next().await;
        }
        while waiting.try_join_next().is_some() {}
        let (with_volumes, outcomes) = execute::apart(outcomes);
        for outcome in with_volumes {
            let executor = executor.clone();
            waiting.spawn(async move { executor.with_volumes(outcome).await });
        }
        let executor = executor.clone();
        under_way.spawn(async move { executor.execute(outcomes).await });
    }
}

async fn wait(shared: &Shared, due: Option<Instant>, under_way: &mut JoinSet<()>) {
    let idle = Instant::now() + Duration::from_secs(60);
    tokio::select! {
        () = shared.changed.notified() => {}
        () = tokio::time::sleep_until(due.unwrap_or(idle).min(idle).into()) => {}
        Some(_) = under_way.join_next() => {}
    }
}
