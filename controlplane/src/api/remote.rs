//! `pods/exec` and `pods/attach`: a command in a container, or the container itself, on the client's own
//! connection. The node does it; here its frames become those of the client's protocol.
//!
//! `remote/websocket` and `remote/spdy` are the two ways; `remote/status` says how it ended.

use axum::body::Body;
use http::request::Parts;
use http::{Method, Response};
use proto::node::v1::stream_request::Kind;
use proto::node::v1::{AttachRequest, ExecRequest, StreamRequest};
use serde_json::{Value, json};

use super::logs::container;
use super::read::Subject;
use super::upgrade::{self, Way};
use super::{Api, respond};
use crate::auth::{Attributes, User};
use crate::nodestream::NodeStream;
use crate::registry::judges::{Attempt, Operation, Remarks};
use crate::registry::{ApiError, object};
use crate::store::Freshness;

mod spdy;
pub(super) mod status;
mod websocket;

pub(super) use crate::nodestream::{Refused, accepted, close, data};
pub(super) use websocket::{Protocol as Channels, Said, end};

/// Channels of remote commands.
const STDIN: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
const ERROR: u32 = 3;
const RESIZE: u32 = 4;

/// Which streams there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Streams {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

/// `PodExecOptions` and `PodAttachOptions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) streams: Streams,
    pub(super) container: String,
    pub(super) command: Vec<String>,
}

/// Read from the query itself: a command may have more words than other requests have parameters.
fn options(query: &str) -> Result<Options, ApiError> {
    let mut options = Options {
        streams: Streams {
            stdin: false,
            stdout: false,
            stderr: false,
            tty: false,
        },
        container: String::new(),
        command: Vec::new(),
    };
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let on = !matches!(&*value, "false" | "0" | "f" | "F" | "False" | "FALSE");
        match &*name {
            "stdin" => options.streams.stdin = on,
            "stdout" => options.streams.stdout = on,
            "stderr" => options.streams.stderr = on,
            "tty" => options.streams.tty = on,
            "container" if options.container.is_empty() => options.container = value.into_owned(),
            "command" => options.command.push(value.into_owned()),
            _ => {}
        }
    }
    options.checked()
}

impl Options {
    pub(super) fn checked(mut self) -> Result<Self, ApiError> {
        let streams = &mut self.streams;
        if streams.tty {
            // A terminal has one output.
            streams.stderr = false;
        }
        if !(streams.stdin || streams.stdout || streams.stderr) {
            return Err(ApiError::bad_request(
                "you must specify at least 1 of stdin, stdout, stderr",
            ));
        }
        Ok(self)
    }

    /// As admission sees them.
    fn object(&self) -> Value {
        let Streams {
            stdin,
            stdout,
            stderr,
            tty,
        } = self.streams;
        let mut object = json!({"stdin": stdin, "stdout": stdout, "stderr": stderr, "tty": tty});
        if !self.container.is_empty() {
            object["container"] = self.container.as_str().into();
        }
        if !self.command.is_empty() {
            object["command"] = json!(self.command);
        }
        object
    }

    fn kind(self, exec: bool) -> Result<Kind, ApiError> {
        let Streams {
            stdin,
            stdout,
            stderr,
            tty,
        } = self.streams;
        if !exec {
            return Ok(Kind::Attach(AttachRequest {
                stdin,
                stdout,
                stderr,
            }));
        }
        if self.command.is_empty() {
            return Err(ApiError::bad_request(
                "you must specify at least one command for the container",
            ));
        }
        Ok(Kind::Exec(ExecRequest {
            command: self.command,
            stdin,
            stdout,
            stderr,
            tty,
        }))
    }
}

impl Api {
    pub(super) async fn remote(
        &self,
        user: &User,
        parts: &Parts,
        subject: Subject<'_>,
    ) -> Result<Response<Body>, ApiError> {
        self.check_connect(user, parts, subject)?;
        let options = options(parts.uri.query().unwrap_or(""))?;
        self.admit_connect(user, subject, options.object()).await?;
        let (pod, node) = self.pod_on_node(subject).await?;
        let exec = subject.subresource == "exec";
        self.converse(parts, &pod, &node, options, exec).await
    }

    /// A command in a pod's container, or the container itself, on the client's connection.
    pub(super) async fn converse(
        &self,
        parts: &Parts,
        pod: &Value,
        node: &str,
        options: Options,
        exec: bool,
    ) -> Result<Response<Body>, ApiError> {
        let container = container(pod, &options.container)?;
        let wanted = upgrade::wanted(parts)?;
        let streams = options.streams;
        let request = StreamRequest {
            server: String::new(),
            id: String::new(),
            namespace: object::namespace(pod).to_owned(),
            pod: object::name(pod).to_owned(),
            container,
            kind: Some(options.kind(exec)?),
        };
        let protocol = match &wanted.way {
            Way::WebSocket { .. } => upgrade::choose(&wanted.offered, websocket::PROTOCOLS)
                .map(|(name, protocol)| (name, Protocol::WebSocket(protocol)))
                .ok_or_else(|| upgrade::disagree(&wanted.offered, websocket::PROTOCOLS)),
            Way::Spdy => upgrade::choose(&wanted.offered, spdy::PROTOCOLS)
                .map(|(name, protocol)| (name, Protocol::Spdy(protocol)))
                .ok_or_else(|| upgrade::disagree(&wanted.offered, spdy::PROTOCOLS)),
        };
        let (name, protocol) = match protocol {
            Ok(agreed) => agreed,
            Err(response) => return Ok(response),
        };
        let mut node = self.streams.open(node, request).await?;
        if let Err(refused) = accepted(&mut node).await {
            return refused.response();
        }
        let answer = wanted.answer(&name);
        let stopping = self.stopping.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = carry(wanted, protocol, node, streams) => {}
                () = stopping.cancelled() => {}
            }
        });
        Ok(answer)
    }

    /// Method and permission of what takes over a connection. A WebSocket begins as a GET, which may be allowed
    /// to many who only look: what is done through it has to be allowed too.
    pub(super) fn check_connect(
        &self,
        user: &User,
        parts: &Parts,
        subject: Subject<'_>,
    ) -> Result<(), ApiError> {
        if !matches!(parts.method, Method::GET | Method::POST) {
            return Err(ApiError::method_not_allowed());
        }
        if parts.method != Method::GET || !upgrade::is_websocket(&parts.headers) {
            return Ok(());
        }
        self.check_create(user, subject)
    }

    pub(super) fn check_create(&self, user: &User, subject: Subject<'_>) -> Result<(), ApiError> {
        let wanted = Attributes {
            verb: "create".to_owned(),
            version: "v1".to_owned(),
            resource: subject.kind.plural.to_owned(),
            subresource: subject.subresource.to_owned(),
            namespace: subject.namespace.to_owned(),
            name: subject.name.to_owned(),
            ..Attributes::default()
        };
        if self.authorizer.allows(user, &wanted) {
            return Ok(());
        }
        let why = wanted.refusal(user);
        Err(ApiError::forbidden(
            "",
            subject.kind.plural,
            subject.name,
            &why,
        ))
    }

    /// Asks webhooks and policies about a connection with these `options` (`PodExecOptions` and so on).
    pub(super) async fn admit_connect(
        &self,
        user: &User,
        subject: Subject<'_>,
        mut options: Value,
    ) -> Result<(), ApiError> {
        let ((group, version, name), _) =
            super::discovery::subresource(subject.kind, subject.subresource);
        options["kind"] = name.into();
        options["apiVersion"] = version.into();
        self.registry
            .judge_part(Attempt {
                kind: subject.kind,
                speaks: Some((group, version, name)),
                requested: None,
                namespace: subject.namespace,
                name: subject.name,
                subresource: subject.subresource,
                operation: Operation::Connect,
                object: Some(&options),
                old: None,
                dry_run: false,
                options: &Value::Null,
                requester: &super::write::requester(user),
                // The answer is another protocol's.
                remarks: &Remarks::default(),
            })
            .await
            // What others would change about it is not followed.
            .map(drop)
    }

    /// The pod and the node that it is on.
    pub(super) async fn pod_on_node(
        &self,
        subject: Subject<'_>,
    ) -> Result<(Value, String), ApiError> {
        let Subject {
            kind,
            namespace,
            name,
            ..
        } = subject;
        let kv = self
            .registry
            .get(kind, namespace, name, Freshness::Linearizable)
            .await?;
        let pod = object::decode(&kv);
        match pod["spec"]["nodeName"].as_str() {
            Some(node) if !node.is_empty() => {
                let node = node.to_owned();
                Ok((pod, node))
            }
            _ => Err(ApiError::bad_request(format!(
                "pod {name} does not have a host assigned"
            ))),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Protocol {
    WebSocket(websocket::Protocol),
    Spdy(spdy::Protocol),
}

async fn carry(wanted: upgrade::Wanted, protocol: Protocol, node: NodeStream, streams: Streams) {
    match protocol {
        Protocol::WebSocket(protocol) => {
            if let Some(client) = wanted.websocket().await {
                websocket::carry(client, protocol, node, streams).await;
            }
        }
        Protocol::Spdy(protocol) => {
            if let Some(client) = wanted.connection().await {
                spdy::carry(client, protocol, node, streams).await;
            }
        }
    }
}

impl Refused {
    pub(super) fn response(self) -> Result<Response<Body>, ApiError> {
        match self {
            Self::Status(error) => Err(error),
            Self::Words(code, text) => Ok(respond::text(code, text)),
        }
    }
}

#[cfg(test)]
mod tests;
