//! The audit log: who asked what, when, and what was answered, as events of audit.k8s.io/v1.
//!
//! `audit/policy` says how much is written of which request (pure), `audit/log` is the file. Here: the event of one
//! request as it becomes known, from its head to the head of its answer.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::request::Parts;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::auth::{Attributes, User};
use crate::registry::judges::{PATCH_ANNOTATIONS, Remarks};
use crate::registry::object;

mod log;
mod policy;

pub use log::AuditConfig;
use log::Sink;
use policy::{Level, Policy, Stage, Verdict};

/// An answer that is larger is not written down.
const MOST_BYTES: u64 = 1 << 20;

/// Where a connection comes from; every request has it as an extension.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// The member's audit log.
#[derive(Debug, Clone)]
pub(crate) struct Audit {
    sink: Sink,
    policy: Arc<Policy>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum AuditError {
    #[error("--audit-policy-file {path}: {why}")]
    Policy { path: String, why: String },
    #[error("--audit-log {path}: {source}")]
    Log {
        path: String,
        source: std::io::Error,
    },
}

impl Audit {
    /// `None` where nothing is to be written.
    pub(crate) fn open(config: &AuditConfig) -> Result<Option<Self>, AuditError> {
        let policy = match &config.policy {
            None => Policy::metadata(),
            Some(path) => {
                let wrong = |why: String| AuditError::Policy {
                    path: path.display().to_string(),
                    why,
                };
                let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
                Policy::parse(&text).map_err(wrong)?
            }
        };
        let Some(path) = &config.log else {
            return Ok(None);
        };
        let sink = Sink::open(config, path).map_err(|source| AuditError::Log {
            path: path.display().to_string(),
            source,
        })?;
        Ok(Some(Self {
            sink,
            policy: Arc::new(policy),
        }))
    }

    /// The beginning of a request.
    pub(super) fn record(&self, parts: &Parts) -> Record {
        let now = micro_time();
        let agent = parts.headers.get(USER_AGENT);
        let agent = agent.and_then(|agent| agent.to_str().ok());
        let mut event = json!({
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "auditID": uuid::Uuid::new_v4().to_string(),
            "requestURI": parts.uri.path_and_query().map_or("/", |uri| uri.as_str()),
            "userAgent": agent.unwrap_or(""),
            "requestReceivedTimestamp": now,
            "annotations": {},
        });
        if let Some(Peer(peer)) = parts.extensions.get::<Peer>() {
            event["sourceIPs"] = json!([peer.ip().to_canonical()]);
        }
        Record {
            audit: self.clone(),
            draft: Arc::new(Mutex::new(Draft {
                event,
                verdict: None,
                remarks: Remarks::default(),
            })),
        }
    }
}

#[derive(Debug)]
struct Draft {
    event: Value,
    /// Unknown until it is known who asks what.
    verdict: Option<Verdict>,
    /// Of webhooks and policies; complete when there is an answer.
    remarks: Remarks,
}

/// One request's event; a cheap handle that every part of the request's way adds to.
#[derive(Debug, Clone)]
pub(super) struct Record {
    audit: Audit,
    draft: Arc<Mutex<Draft>>,
}

impl Record {
    fn with<R>(&self, act: impl FnOnce(&mut Draft) -> R) -> R {
        act(&mut self.draft.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Who asks (`real`), as whom, and what.
    pub(super) async fn known(&self, real: &User, user: &User, wanted: &Attributes) {
        let verdict = self.audit.policy.judge(real, wanted);
        self.with(|draft| {
            let event = &mut draft.event;
            event["level"] = verdict.level.name().into();
            event["verb"] = wanted.verb.clone().into();
            event["user"] = user_info(real);
            if real != user {
                event["impersonatedUser"] = user_info(user);
            }
            if wanted.path.is_none() {
                event["objectRef"] = reference(wanted);
            }
            draft.verdict = Some(verdict);
        });
        self.write(Stage::RequestReceived).await;
    }

    /// Whether the client may, and which role says so.
    pub(super) fn decided(&self, allowed: bool, reason: String) {
        let decision = if allowed { "allow" } else { "forbid" };
        self.with(|draft| {
            let annotations = &mut draft.event["annotations"];
            annotations["authorization.k8s.io/decision"] = decision.into();
            annotations["authorization.k8s.io/reason"] = reason.into();
        });
    }

    /// What the client sent, where that is wanted, and where judges leave their remarks.
    pub(super) fn request(&self, body: &Bytes, remarks: &Remarks) {
        self.with(|draft| {
            draft.remarks = remarks.clone();
            let Some(verdict) = &draft.verdict else {
                return;
            };
            if verdict.level < Level::Request || body.is_empty() {
                return;
            }
            if let Ok(mut object) = serde_json::from_slice::<Value>(body) {
                if verdict.omit_managed_fields {
                    without_managed_fields(&mut object);
                }
                draft.event["requestObject"] = object;
            }
        });
    }

    /// The answer is about to go out. `streams` says that it goes on after its head.
    pub(super) async fn answered(&self, response: Response<Body>, streams: bool) -> Response<Body> {
        let code = response.status().as_u16();
        let level = self.with(|draft| {
            if draft.verdict.is_none() {
                // It is not known who asked: as anybody.
                let verdict = self
                    .audit
                    .policy
                    .judge(&User::anonymous(), &Attributes::default());
                draft.event["level"] = verdict.level.name().into();
                draft.verdict = Some(verdict);
            }
            draft.event["responseStatus"] = json!({"metadata": {}, "code": code});
            draft
                .verdict
                .as_ref()
                .map_or(Level::None, |verdict| verdict.level)
        });
        if level == Level::None {
            return response;
        }
        if streams {
            self.write(Stage::ResponseStarted).await;
            let end = End(self.clone());
            return response.map(|body| {
                use futures::StreamExt as _;
                // Held by the stream, and so let go of at its end, whoever ends it.
                Body::from_stream(body.into_data_stream().inspect(move |_| {
                    let _ = &end;
                }))
            });
        }
        let wanted = level == Level::RequestResponse || code >= 400;
        let response = if wanted {
            self.read(response, level).await
        } else {
            response
        };
        self.write(Stage::ResponseComplete).await;
        response
    }

    /// Notes the answer, and gives it back whole.
    async fn read(&self, response: Response<Body>, level: Level) -> Response<Body> {
        use axum::body::HttpBody as _;
        let json = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        let size = response.body().size_hint().exact();
        if !json || size.is_none_or(|size| size > MOST_BYTES) {
            return response;
        }
        let (parts, body) = response.into_parts();
        let Ok(collected) = body.collect().await else {
            return Response::from_parts(parts, Body::empty());
        };
        let bytes = collected.to_bytes();
        if let Ok(object) = serde_json::from_slice::<Value>(&bytes) {
            self.with(|draft| note(draft, object, level));
        }
        Response::from_parts(parts, Body::from(bytes))
    }

    async fn write(&self, stage: Stage) {
        if let Some(event) = self.event(stage) {
            self.audit.sink.write(&event).await;
        }
    }

    fn event(&self, stage: Stage) -> Option<Value> {
        self.with(|draft| {
            let verdict = draft.verdict.as_ref()?;
            if verdict.level == Level::None || verdict.omitted.contains(&stage) {
                return None;
            }
            let mut event = draft.event.clone();
            event["stage"] = stage.name().into();
            event["stageTimestamp"] = micro_time().into();
            let with_bodies = verdict.level >= Level::Request;
            for (name, value) in draft.remarks.annotations() {
                // A patch may hold what the level keeps out of the log.
                if with_bodies || !name.starts_with(PATCH_ANNOTATIONS) {
                    event["annotations"][name] = value.into();
                }
            }
            Some(event)
        })
    }
}

/// Tells of the end of a stream.
struct End(Record);

impl Drop for End {
    fn drop(&mut self) {
        if let Some(event) = self.0.event(Stage::ResponseComplete) {
            self.0.audit.sink.write_now(&event);
        }
    }
}

fn note(draft: &mut Draft, mut object: Value, level: Level) {
    if object["kind"] == "Status" && object["status"] == "Failure" {
        let mut status = object.clone();
        if let Some(status) = status.as_object_mut() {
            status.remove("kind");
            status.remove("apiVersion");
        }
        draft.event["responseStatus"] = status;
    }
    if level == Level::RequestResponse {
        let omit = draft
            .verdict
            .as_ref()
            .is_some_and(|verdict| verdict.omit_managed_fields);
        if omit {
            without_managed_fields(&mut object);
        }
        draft.event["responseObject"] = object;
    }
}

fn without_managed_fields(object: &mut Value) {
    if object["metadata"].is_object() {
        object::remove_meta(object, "managedFields");
    }
    for item in object["items"].as_array_mut().into_iter().flatten() {
        object::remove_meta(item, "managedFields");
    }
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.clone().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn reference(wanted: &Attributes) -> Value {
    let mut reference = json!({});
    for (field, value) in [
        ("resource", &wanted.resource),
        ("namespace", &wanted.namespace),
        ("name", &wanted.name),
        ("apiGroup", &wanted.group),
        ("apiVersion", &wanted.version),
        ("subresource", &wanted.subresource),
    ] {
        if !value.is_empty() {
            reference[field] = value.clone().into();
        }
    }
    reference
}

fn micro_time() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}
