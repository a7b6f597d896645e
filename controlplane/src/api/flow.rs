//! Priority and fairness: how many requests are worked on at once, and who comes first when there are more.
//!
//! `flow/levels` says where a request belongs and how many seats each level has (pure), `flow/queues` who waits
//! (pure). Here: the seats that are taken, the requests that wait for one, and the objects that configure it.
//!
//! Node sync is not counted: nodes hold one stream each, and their heart-beats go over it.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::oneshot;

use crate::auth::{Attributes, User};
use crate::cache::{Cache, Subscription};
use crate::registry::ApiError;

mod levels;
mod queues;
#[cfg(test)]
mod tests;

use levels::{CATCH_ALL, Class, Level, Limit};
use queues::Queues;

/// Longest that a request waits for a seat.
const PATIENCE: Duration = Duration::from_secs(15);
/// Seconds after which a refused client may come again.
const RETRY_AFTER: i32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabel {
    priority_level: String,
    flow_schema: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectLabel {
    priority_level: String,
    flow_schema: String,
    reason: &'static str,
}

/// Counted as Kubernetes names it.
#[derive(Debug, Clone, Default)]
struct FlowMetrics {
    dispatched: Family<LevelLabel, Counter>,
    rejected: Family<RejectLabel, Counter>,
    executing: Family<LevelLabel, Gauge>,
}

#[derive(Debug)]
struct Working {
    level: Level,
    in_use: usize,
    queues: Option<Queues>,
}

#[derive(Debug, Default)]
struct State {
    levels: HashMap<String, Working>,
    schemas: Arc<[FlowSchema]>,
    waiting: HashMap<u64, oneshot::Sender<()>>,
    last: u64,
}

/// A cheap handle. The lock is held for moments; no other lock is taken under it.
#[derive(Debug, Clone)]
pub(crate) struct Flow {
    seats: usize,
    state: Arc<Mutex<State>>,
    metrics: FlowMetrics,
}

/// A place among those who are worked on; given up when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    flow: Flow,
    level: String,
    label: LevelLabel,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.flow.metrics.executing.get_or_create(&self.label).dec();
        self.flow.leave(&self.level);
    }
}

/// Takes itself out of the queue when whoever waits gives up.
struct Place<'a> {
    flow: &'a Flow,
    level: &'a str,
    id: u64,
    /// Set once the seat is taken over by a [`Seat`].
    seated: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.seated {
            return;
        }
        let mut state = self.flow.lock();
        let waited = state.waiting.remove(&self.id).is_some();
        if let Some(level) = state.levels.get_mut(self.level)
            && waited
            && let Some(queues) = &mut level.queues
        {
            queues.remove(self.id);
            return;
        }
        drop(state);
        // It was given a seat at the same moment.
        self.flow.leave(self.level);
    }
}

impl Flow {
    /// With the objects of the cache from now on, as long as what is returned lives.
    pub(crate) fn follow(cache: &Cache, seats: usize) -> (Self, Vec<Subscription>) {
        let flow = Self::new(seats);
        flow.configure(&[], &[]);
        let changed = {
            let (flow, cache) = (flow.clone(), cache.clone());
            move || {
                let levels: Vec<PriorityLevelConfiguration> = cache
                    .priority_levels
                    .list("")
                    .iter()
                    .map(|level| level.as_ref().clone())
                    .collect();
                let schemas: Vec<FlowSchema> = cache
                    .flow_schemas
                    .list("")
                    .iter()
                    .map(|schema| schema.as_ref().clone())
                    .collect();
                flow.configure(&levels, &schemas);
            }
        };
        let again = changed.clone();
        let subscriptions = vec![
            cache.priority_levels.subscribe(move |_| changed()),
            cache.flow_schemas.subscribe(move |_| again()),
        ];
        (flow, subscriptions)
    }

    pub(super) fn new(seats: usize) -> Self {
        Self {
            seats,
            state: Arc::default(),
            metrics: FlowMetrics::default(),
        }
    }

    pub(crate) fn register(&self, all: &mut prometheus_client::registry::Registry) {
        all.register(
            "apiserver_flowcontrol_dispatched_requests",
            "Requests that got a seat",
            self.metrics.dispatched.clone(),
        );
        all.register(
            "apiserver_flowcontrol_rejected_requests",
            "Requests that got none",
            self.metrics.rejected.clone(),
        );
        all.register(
            "apiserver_flowcontrol_current_executing_requests",
            "Requests that have a seat",
            self.metrics.executing.clone(),
        );
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those who wait or work go on under the new rules; who waits at a level that is gone is let in.
    pub(super) fn configure(&self, levels: &[PriorityLevelConfiguration], schemas: &[FlowSchema]) {
        let mut state = self.lock();
        let mut old = std::mem::take(&mut state.levels);
        let mut freed = Vec::new();
        for level in levels::levels(levels, self.seats) {
            let known = old.remove(&level.name);
            let (in_use, queues) = known.map_or((0, None), |known| (known.in_use, known.queues));
            let queues = match level.limit {
                Limit::Queue(shape) => Some(queues.unwrap_or_else(|| Queues::new(shape))),
                _ => {
                    let mut queues = queues;
                    while let Some(id) = queues.as_mut().and_then(Queues::pop) {
                        freed.push((level.name.clone(), id));
                    }
                    None
                }
            };
            let name = level.name.clone();
            state.levels.insert(
                name,
                Working {
                    level,
                    in_use,
                    queues,
                },
            );
        }
        for (_, mut gone) in old {
            while let Some(id) = gone.queues.as_mut().and_then(Queues::pop) {
                freed.push((CATCH_ALL.to_owned(), id));
            }
        }
        state.schemas = levels::in_order(schemas.to_vec()).into();
        for (level, id) in freed {
            state.seat(&level, id);
        }
    }

    /// Waits for a seat, or says that there is none.
    pub(super) async fn admit(&self, user: &User, wanted: &Attributes) -> Result<Seat, ApiError> {
        let schemas = Arc::clone(&self.lock().schemas);
        let mut class = levels::classify(&schemas, user, wanted);
        let outcome = self.take(&mut class);
        let label = LevelLabel {
            priority_level: class.level.clone(),
            flow_schema: class.schema.clone(),
        };
        let reject = |reason| {
            let label = RejectLabel {
                priority_level: class.level.clone(),
                flow_schema: class.schema.clone(),
                reason,
            };
            self.metrics.rejected.get_or_create(&label).inc();
            too_many()
        };
        match outcome {
            Taken::Seat => {}
            Taken::Full(reason) => return Err(reject(reason)),
            Taken::Wait(id, turn) => {
                let mut place = Place {
                    flow: self,
                    level: &class.level,
                    id,
                    seated: false,
                };
                match tokio::time::timeout(PATIENCE, turn).await {
                    Ok(Ok(())) => place.seated = true,
                    _ => return Err(reject("time-out")),
                }
            }
        }
        self.metrics.dispatched.get_or_create(&label).inc();
        self.metrics.executing.get_or_create(&label).inc();
        Ok(Seat {
            flow: self.clone(),
            level: class.level,
            label,
        })
    }

    fn take(&self, class: &mut Class) -> Taken {
        let mut state = self.lock();
        if !state.levels.contains_key(&class.level) {
            // A schema may name a level that is not there yet.
            class.level = CATCH_ALL.to_owned();
        }
        if state.has_room(&class.level) {
            if let Some(level) = state.levels.get_mut(&class.level) {
                level.in_use += 1;
            }
            return Taken::Seat;
        }
        state.last += 1;
        let id = state.last;
        let mut hasher = DefaultHasher::new();
        (&class.schema, &class.distinguisher).hash(&mut hasher);
        let Some(Working {
            queues: Some(queues),
            ..
        }) = state.levels.get_mut(&class.level)
        else {
            return Taken::Full("concurrency-limit");
        };
        if !queues.push(id, hasher.finish()) {
            return Taken::Full("queue-full");
        }
        let (tell, turn) = oneshot::channel();
        state.waiting.insert(id, tell);
        Taken::Wait(id, turn)
    }

    fn leave(&self, level: &str) {
        let mut state = self.lock();
        if let Some(level) = state.levels.get_mut(level) {
            level.in_use = level.in_use.saturating_sub(1);
        }
        state.dispatch();
    }
}

enum Taken {
    Seat,
    Wait(u64, oneshot::Receiver<()>),
    Full(&'static str),
}

impl State {
    /// Whether one more request of this level may be worked on: on a seat of its own, or on one that others lend
    /// and do not use.
    fn has_room(&self, name: &str) -> bool {
        let Some(working) = self.levels.get(name) else {
            return false;
        };
        let level = &working.level;
        if level.limit == Limit::Exempt || working.in_use < level.nominal {
            return true;
        }
        let borrowed = working.in_use - level.nominal;
        if level.borrowing.is_some_and(|most| borrowed >= most) {
            return false;
        }
        let lent: usize = self
            .levels
            .values()
            .filter(|other| other.level.name != name)
            .map(|other| {
                let kept = other.level.nominal.saturating_sub(other.level.lendable);
                other.level.nominal.saturating_sub(other.in_use.max(kept))
            })
            .sum();
        let taken: usize = self
            .levels
            .values()
            .filter(|other| other.level.name != name)
            .map(|other| other.in_use.saturating_sub(other.level.nominal))
            .filter(|over| *over > 0)
            .sum();
        borrowed + taken < lent
    }

    fn seat(&mut self, level: &str, id: u64) {
        if let Some(working) = self.levels.get_mut(level) {
            working.in_use += 1;
        }
        if let Some(tell) = self.waiting.remove(&id) {
            // Whoever does not wait any more gives the seat back when it notices.
            let _ = tell.send(());
        }
    }

    /// Lets in whoever may begin now.
    fn dispatch(&mut self) {
        let names: Vec<String> = self
            .levels
            .iter()
            .filter(|(_, level)| level.queues.as_ref().is_some_and(|queues| queues.len() > 0))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            while self.has_room(&name) {
                let next = self
                    .levels
                    .get_mut(&name)
                    .and_then(|level| level.queues.as_mut())
                    .and_then(Queues::pop);
                match next {
                    Some(id) => self.seat(&name, id),
                    None => break,
                }
            }
        }
    }
}

fn too_many() -> ApiError {
    ApiError::new(
        429,
        "TooManyRequests",
        "too many requests, please try again later",
    )
    .with_retry_after(RETRY_AFTER)
}
