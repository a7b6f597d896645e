//! Watches of one kind: the initial state, then changes, sifted by the request's selectors.

use std::sync::Arc;

use super::list::{ListOptions, VersionMatch};
use super::selector::Selector;
use super::{ApiError, Registry, key};
use crate::kinds::{Kind, KindRef, Scope};
use crate::store::{KeyValue, Watch, WatchEnd, WatchEvent};

#[derive(Debug, Clone, Default)]
pub(crate) struct WatchOptions {
    pub(crate) selector: Selector,
    /// `None` and 0 begin with the present state as ADDED events.
    pub(crate) resource_version: Option<u64>,
    /// The present state as ADDED events, then a bookmark that says so, whatever the resourceVersion.
    pub(crate) send_initial_events: bool,
}

/// One event of a watch.
#[derive(Debug, Clone)]
pub(crate) enum Frame {
    Added(Arc<KeyValue>),
    Modified(Arc<KeyValue>),
    /// The last version that was selected, and the revision at which it ceased to be.
    Deleted(Arc<KeyValue>, u64),
    /// End of the initial state.
    InitialEnd(u64),
}

#[derive(Debug)]
pub(crate) struct ObjectWatch {
    kind: KindRef,
    selector: Selector,
    initial: Option<Vec<Frame>>,
    watch: Watch,
}

impl Registry {
    pub(crate) async fn watch(
        &self,
        kind: &KindRef,
        namespace: &str,
        options: WatchOptions,
    ) -> Result<ObjectWatch, ApiError> {
        let handle = kind;
        let kind = &handle.get();
        let from_now = matches!(options.resource_version, None | Some(0));
        let (initial, after) = if from_now || options.send_initial_events {
            let (frames, revision) = self.initial(kind, namespace, &options).await?;
            (Some(frames), revision)
        } else {
            (None, options.resource_version.unwrap_or(0))
        };
        let prefix = match options.selector.only_name() {
            Some(name) if !namespace.is_empty() || kind.scope == Scope::Cluster => {
                key::object(kind, namespace, name)
            }
            _ => key::prefix(kind, namespace),
        };
        Ok(ObjectWatch {
            kind: handle.clone(),
            watch: self.store().watch(&prefix, after)?,
            selector: options.selector,
            initial: initial.filter(|frames| !frames.is_empty()),
        })
    }

    async fn initial(
        &self,
        kind: &Kind<'_>,
        namespace: &str,
        options: &WatchOptions,
    ) -> Result<(Vec<Frame>, u64), ApiError> {
        let list = ListOptions {
            selector: options.selector.clone(),
            resource_version: options.resource_version,
            version_match: match options.resource_version {
                Some(_) => VersionMatch::NotOlderThan,
                None => VersionMatch::Unset,
            },
            ..ListOptions::default()
        };
        let page = self.list(kind, namespace, &list).await?;
        let mut frames: Vec<Frame> = page.items.into_iter().map(Frame::Added).collect();
        if options.send_initial_events {
            frames.push(Frame::InitialEnd(page.revision));
        }
        Ok((frames, page.revision))
    }
}

impl ObjectWatch {
    /// The next frames (perhaps none, where nothing of a batch is selected). Cancel-safe. `Ok(None)` is the
    /// orderly end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Frame>>, ApiError> {
        if let Some(frames) = self.initial.take() {
            return Ok(Some(frames));
        }
        match self.watch.next().await {
            Ok((events, _)) => {
                let kind = self.kind.get();
                let kind = super::versions::stored(&kind);
                let frames = events.into_iter();
                Ok(Some(
                    frames
                        .filter_map(|event| frame(kind, &self.selector, event))
                        .collect(),
                ))
            }
            Err(WatchEnd::Closed) => Ok(None),
            Err(end @ WatchEnd::Slow(_)) => Err(ApiError::expired(end.to_string())),
        }
    }

    /// Revision up to which the watcher has missed nothing.
    pub(crate) fn progress(&self) -> u64 {
        self.watch.progress()
    }
}

/// An object that starts to match is added, one that stops to match is deleted.
fn frame(kind: &Kind<'_>, selector: &Selector, event: WatchEvent) -> Option<Frame> {
    match event {
        WatchEvent::Put { kv, previous } => {
            let is = selector.matches(kind, &kv);
            let was = previous
                .as_ref()
                .is_some_and(|previous| selector.matches(kind, previous));
            match (was, is, previous) {
                (false, true, _) => Some(Frame::Added(kv)),
                (true, true, _) => Some(Frame::Modified(kv)),
                (true, false, Some(previous)) => Some(Frame::Deleted(previous, kv.mod_revision)),
                _ => None,
            }
        }
        WatchEvent::Delete { revision, previous } => selector
            .matches(kind, &previous)
            .then_some(Frame::Deleted(previous, revision)),
    }
}
