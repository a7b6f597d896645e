//! Watch: a stream of JSON frames that ends when its time is over, the client goes, the member stops, or an
//! error has been told.
//!
//! A plain watcher gets the bytes that every other reader of the version gets; only tables, partial objects
//! and deletions are made for it alone.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use http::{Response, StatusCode};
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::negotiate::{Encoding, Shape};
use super::read::{Subject, Wish, now, resource_version, version_match};
use super::request::Query;
use super::table::{Include, View};
use super::{Api, Metrics, respond};
use crate::registry::list::{VersionMatch, version_match_forbidden};
use crate::registry::selector::Selector;
use crate::registry::watch::{Frame, ObjectWatch, WatchOptions};
use crate::registry::{ApiError, Registry, object};
use crate::store::KeyValue;

/// A watch without `timeoutSeconds` lasts between this and twice this.
const DEFAULT_SECONDS: u64 = 1800;
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Where the initial state ends (KEP-3157).
const INITIAL_END: &str = "k8s.io/initial-events-end";

impl Api {
    pub(super) async fn watch(
        &self,
        subject: Subject<'_>,
        query: &Query,
        wish: Wish,
    ) -> Result<Response<Body>, ApiError> {
        if wish.format.encoding == Encoding::Yaml {
            return Err(ApiError::not_acceptable("application/json"));
        }
        let kind = subject.kind;
        let fields = match subject.name {
            "" => query.get("fieldSelector").to_owned(),
            name => format!("metadata.name={name}"),
        };
        let bookmarks = query.flag("allowWatchBookmarks");
        let send_initial_events = initial_events(query, bookmarks)?;
        let options = WatchOptions {
            selector: Selector::parse(kind, query.get("labelSelector"), &fields)?,
            resource_version: resource_version(query)?,
            send_initial_events,
        };
        let seconds = match query.number::<u64>("timeoutSeconds")? {
            Some(seconds) if seconds > 0 => seconds.min(24 * 3600),
            _ => DEFAULT_SECONDS + rand::rng().random_range(0..DEFAULT_SECONDS),
        };
        let view = View {
            kind: subject.handle.clone(),
            shape: wish.format.shape,
            include: Include::parse(query.get("includeObject"))?,
        };
        let watch = self
            .registry
            .watch(subject.handle, subject.namespace, options)
            .await?;
        let mut ticks = tokio::time::interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.metrics.watches.inc();
        let session = Session {
            watch,
            registry: self.registry.clone(),
            view,
            bookmarks: bookmarks.then_some(ticks),
            deadline: Box::pin(tokio::time::sleep(Duration::from_secs(seconds))),
            stopping: Box::pin(self.stopping.clone().cancelled_owned()),
            metrics: Arc::clone(&self.metrics),
            first: true,
            ended: false,
        };
        let stream = futures::stream::unfold(session, |mut session| async move {
            let bytes = session.next().await?;
            Some((Ok::<_, std::convert::Infallible>(bytes), session))
        });
        Ok(respond::json(StatusCode::OK, Body::from_stream(stream)))
    }
}

/// `sendInitialEvents` comes with conditions.
fn initial_events(query: &Query, bookmarks: bool) -> Result<bool, ApiError> {
    let matching = version_match(query)?;
    if !query.has("sendInitialEvents") {
        return match matching {
            VersionMatch::Unset => Ok(false),
            _ => Err(version_match_forbidden(
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            )),
        };
    }
    if matching != VersionMatch::NotOlderThan {
        return Err(version_match_forbidden(
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    let wanted = query.flag("sendInitialEvents");
    if wanted && !bookmarks {
        return Err(version_match_forbidden(
            "sendInitialEvents requires setting allowWatchBookmarks to true",
        ));
    }
    Ok(wanted)
}

struct Session {
    watch: ObjectWatch,
    registry: Registry,
    view: View,
    bookmarks: Option<Interval>,
    /// Both are registered once for the whole watch: anew for each event, that would be most of what it costs.
    deadline: Pin<Box<Sleep>>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    metrics: Arc<Metrics>,
    /// Nothing has been sent yet.
    first: bool,
    ended: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.metrics.watches.dec();
    }
}

impl Session {
    /// The next bytes to send; `None` ends the response.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.ended {
            let bytes = tokio::select! {
                biased;
                () = self.stopping.as_mut() => return None,
                () = self.deadline.as_mut() => {
                    self.ended = true;
                    if self.bookmarks.is_some() { self.bookmark(self.watch.progress(), false) } else { Bytes::new() }
                }
                frames = self.watch.next() => match frames {
                    Ok(Some(frames)) => match self.frames(frames).await {
                        Ok(bytes) => bytes,
                        Err(error) => {
                            self.ended = true;
                            wrap("ERROR", &respond::status_json(&error))
                        }
                    },
                    Ok(None) => return None,
                    Err(error) => {
                        self.ended = true;
                        wrap("ERROR", &respond::status_json(&error))
                    }
                },
                () = tick(&mut self.bookmarks) => self.bookmark(self.watch.progress(), false),
            };
            if !bytes.is_empty() {
                return Some(bytes);
            }
        }
        None
    }

    async fn frames(&mut self, frames: Vec<Frame>) -> Result<Bytes, ApiError> {
        let mut out = BytesMut::new();
        for frame in frames {
            let bytes = match frame {
                Frame::Added(kv) => self.object("ADDED", &kv).await?,
                Frame::Modified(kv) => self.object("MODIFIED", &kv).await?,
                Frame::Deleted(kv, revision) => self.deleted(&kv, revision).await?,
                Frame::InitialEnd(revision) => self.bookmark(revision, true),
            };
            self.first = false;
            self.metrics.watch_events.inc();
            if out.is_empty() {
                out = BytesMut::from(bytes);
            } else {
                out.put_slice(&bytes);
            }
        }
        Ok(out.freeze())
    }

    fn is_plain(&self) -> bool {
        self.view.shape == Shape::Object && self.view.kind.shows_what_is_stored()
    }

    async fn object(&self, event: &str, kv: &KeyValue) -> Result<Bytes, ApiError> {
        if self.is_plain() {
            return Ok(wrap_stored(event, &kv.value, kv.mod_revision));
        }
        self.made(event, object::decode(kv)).await
    }

    async fn deleted(&self, last: &KeyValue, revision: u64) -> Result<Bytes, ApiError> {
        if self.is_plain() {
            return Ok(wrap_stored("DELETED", &last.value, revision));
        }
        self.made("DELETED", object::decode_at(last, revision))
            .await
    }

    async fn made(&self, event: &str, stored: Value) -> Result<Bytes, ApiError> {
        let served = self
            .registry
            .one_to_served(&self.view.kind.get(), stored)
            .await?;
        let shown = self.view.watched(served, self.first, now());
        Ok(wrap(event, shown.to_string().as_bytes()))
    }

    fn bookmark(&self, revision: u64, initial_end: bool) -> Bytes {
        let mut metadata =
            json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({INITIAL_END: "true"});
        }
        wrap(
            "BOOKMARK",
            self.view.bookmark(metadata).to_string().as_bytes(),
        )
    }
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

fn wrap(event: &str, object: &[u8]) -> Bytes {
    framed(event, object.len(), |out| out.put_slice(object))
}

fn wrap_stored(event: &str, stored: &[u8], revision: u64) -> Bytes {
    framed(event, stored.len() + 48, |out| {
        object::splice_into(out, stored, revision);
    })
}

fn framed(event: &str, size: usize, object: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::with_capacity(size + event.len() + 24);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(event.as_bytes());
    out.put_slice(b"\",\"object\":");
    object(&mut out);
    out.put_slice(b"}\n");
    out.freeze()
}
