//! What is known of a pod in this agent's lifetime only.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::pods::record::Record;
use crate::pods::status::container_id;

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Transient {
    /// Volumes, network and supervisor are there.
    pub(crate) prepared: bool,
    /// Not before this may preparing be tried again.
    pub(crate) prepare_again: Option<Timestamp>,
    /// When preparing failed first.
    pub(crate) unprepared_since: Option<Timestamp>,
    pub(crate) containers: BTreeMap<String, TransientContainer>,
    /// The agent stops and takes the pod with it: end it as if deleted, but keep it in the books.
    pub(crate) leaving: Option<Leaving>,
    /// Not before this may releasing be tried again.
    pub(crate) release_again: Option<Timestamp>,
}

impl Transient {
    /// For an agent that takes over from another: what the probes said last of containers that run on stays true until
    /// they are asked again. Otherwise every start of an agent would take its pods out of their Services.
    pub(crate) fn taken_over(record: &Record) -> Self {
        let mut transient = Self::default();
        let reported = record.reported.iter();
        let statuses = reported.flat_map(|status| {
            let init = status.init_container_statuses.iter().flatten();
            init.chain(status.container_statuses.iter().flatten())
        });
        for status in statuses {
            let attempt = record
                .container(&status.name)
                .filter(|known| known.running_since().is_some())
                .and_then(|known| known.attempt.as_ref());
            if attempt.is_some_and(|it| status.container_id == Some(container_id(&it.id))) {
                let container = TransientContainer {
                    ready: status.ready.then_some(true),
                    started: status.started.filter(|started| *started),
                    ..TransientContainer::default()
                };
                transient.containers.insert(status.name.clone(), container);
            }
        }
        transient
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leaving {
    pub(crate) grace_seconds: i64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct TransientContainer {
    pub(crate) image: ImageState,
    /// Why the last try to make an attempt came to nothing.
    pub(crate) trouble: Option<Trouble>,
    /// What the probes say of the current attempt; `None` while they have not spoken.
    pub(crate) ready: Option<bool>,
    pub(crate) started: Option<bool>,
    /// Liveness or startup probe gave up on the current attempt.
    pub(crate) unhealthy: Option<Unhealthy>,
    /// Its resources changed in a way that takes a new attempt.
    pub(crate) outdated: bool,
    /// The hook that runs now.
    pub(crate) hook: Option<HookKind>,
    /// When this agent started the current attempt, by its own clock.
    pub(crate) launched: Option<Timestamp>,
    /// The current attempt's `preStop` hook has run, whatever came of it.
    pub(crate) pre_stop_done: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum HookKind {
    PostStart,
    PreStop,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unhealthy {
    /// The probe's own grace period.
    pub(crate) grace_seconds: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum ImageState {
    #[default]
    Unknown,
    Pulling,
    Present,
    Failed {
        reason: String,
        message: String,
        at: Timestamp,
        again: Timestamp,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) reason: String,
    pub(crate) message: String,
    /// Not before this is it tried again (or when an object changed).
    pub(crate) again: Timestamp,
}
