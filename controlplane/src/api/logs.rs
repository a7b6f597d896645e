//! `pods/log`: asks the pod's node for its log and passes it on, over a WebSocket (`logs/websocket`) if one is asked
//! for.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use proto::node::v1::stream_frame::Frame;
use proto::node::v1::{LogsRequest, StreamError, StreamFrame, StreamRequest, stream_request};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::read::Subject;
use super::request::Query;
use super::{Api, respond, upgrade};
use crate::kinds::Cause;
use crate::nodestream::NodeStream;
use crate::registry::error::field_error;
use crate::registry::{ApiError, object};
use crate::store::Freshness;

/// Channel that logs come on.
const STDOUT: u32 = 1;
/// How long a followed log may be silent before its answer begins.
const PATIENCE: Duration = Duration::from_millis(500);

mod websocket;

impl Api {
    pub(super) async fn logs(
        &self,
        parts: &Parts,
        subject: Subject<'_>,
        query: &Query,
    ) -> Result<Response<Body>, ApiError> {
        let response = self.log(subject, query).await?;
        if !upgrade::is_websocket(&parts.headers) {
            return Ok(response);
        }
        websocket::answer(parts, response.into_body(), self.stopping.clone())
    }

    async fn log(&self, subject: Subject<'_>, query: &Query) -> Result<Response<Body>, ApiError> {
        let kv = self
            .registry
            .get(
                subject.kind,
                subject.namespace,
                subject.name,
                Freshness::Linearizable,
            )
            .await?;
        let pod = object::decode(&kv);
        let container = container(&pod, query.get("container"))?;
        self.log_of(&pod, container, query).await
    }

    pub(super) async fn log_of(
        &self,
        pod: &Value,
        container: String,
        query: &Query,
    ) -> Result<Response<Body>, ApiError> {
        let request = log_request(object::name(pod), query)?;
        let node = pod["spec"]["nodeName"].as_str().unwrap_or("");
        if node.is_empty() {
            // No node has anything to tell.
            return Ok(respond::text(StatusCode::OK, Body::empty()));
        }
        let follow = request.follow;
        let stream = self
            .streams
            .open(
                node,
                StreamRequest {
                    server: String::new(),
                    id: String::new(),
                    namespace: object::namespace(pod).to_owned(),
                    pod: object::name(pod).to_owned(),
                    container,
                    kind: Some(stream_request::Kind::Logs(request)),
                },
            )
            .await?;
        begin(stream, follow, self.stopping.clone()).await
    }
}

/// Waits for the first frame, which may be an error that still can be a status code.
async fn begin(
    mut stream: NodeStream,
    follow: bool,
    stopping: CancellationToken,
) -> Result<Response<Body>, ApiError> {
    let mut first = None;
    loop {
        let next = stream.from_node.recv();
        let frame = if follow {
            match tokio::time::timeout(PATIENCE, next).await {
                Ok(frame) => frame,
                Err(_) => break,
            }
        } else {
            next.await
        };
        match frame {
            Some(StreamFrame {
                frame: Some(Frame::Error(error)),
            }) => return Err(refused(error)),
            Some(StreamFrame {
                frame: Some(Frame::Data(data)),
            }) => {
                first = Some(data.data);
                break;
            }
            Some(StreamFrame {
                frame: Some(Frame::Open(_) | Frame::Accepted(_)) | None,
            }) => {}
            Some(StreamFrame {
                frame: Some(Frame::CloseChannel(_)),
            })
            | None => {
                return Ok(respond::text(StatusCode::OK, Body::empty()));
            }
        }
    }
    let state = (stream, first, stopping);
    let bytes = futures::stream::unfold(state, |(mut stream, mut first, stopping)| async move {
        let bytes = match first.take() {
            Some(bytes) => bytes,
            None => tokio::select! {
                () = stopping.cancelled() => return None,
                bytes = next_data(&mut stream) => bytes?,
            },
        };
        Some((
            Ok::<Bytes, std::convert::Infallible>(bytes),
            (stream, None, stopping),
        ))
    });
    Ok(respond::text(StatusCode::OK, Body::from_stream(bytes)))
}

async fn next_data(stream: &mut NodeStream) -> Option<Bytes> {
    loop {
        match stream.from_node.recv().await?.frame {
            Some(Frame::Data(data)) if data.channel == STDOUT || data.channel == STDOUT + 1 => {
                return Some(data.data);
            }
            Some(Frame::Error(_) | Frame::CloseChannel(_)) => return None,
            _ => {}
        }
    }
}

fn refused(error: StreamError) -> ApiError {
    let code = u16::try_from(error.code)
        .ok()
        .filter(|code| (400..600).contains(code))
        .unwrap_or(500);
    ApiError::new(code, &error.reason, error.message)
}

fn log_request(pod: &str, query: &Query) -> Result<LogsRequest, ApiError> {
    let mut errors = Vec::new();
    let mut at_least = |name: &str, least: i64| -> Result<Option<i64>, ApiError> {
        let value: Option<i64> = query.number(name)?;
        if let Some(value) = value.filter(|value| *value < least) {
            errors.push(field_error(
                name,
                Cause::Invalid,
                format!("Invalid value: {value}: must be greater than or equal to {least}"),
            ));
        }
        Ok(value)
    };
    let tail_lines = at_least("tailLines", 0)?;
    let since_seconds = at_least("sinceSeconds", 1)?;
    let limit_bytes = at_least("limitBytes", 1)?;
    let since_time = query.get("sinceTime");
    if !since_time.is_empty() && since_time.parse::<jiff::Timestamp>().is_err() {
        return Err(ApiError::bad_request(format!(
            "sinceTime: Invalid value: \"{since_time}\": must be a time in RFC 3339"
        )));
    }
    if !since_time.is_empty() && since_seconds.is_some() {
        errors.push(field_error(
            "sinceSeconds",
            Cause::Forbidden,
            "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified",
        ));
    }
    let stream = query.get("stream");
    match stream {
        "" | "All" => {}
        "Stdout" | "Stderr" if tail_lines.is_some() => errors.push(field_error(
            "",
            Cause::Forbidden,
            "Forbidden: `tailLines` and specific `stream` are mutually exclusive for now",
        )),
        "Stdout" | "Stderr" => {}
        other => errors.push(field_error(
            "stream",
            Cause::NotSupported,
            format!(
                "Unsupported value: \"{other}\": supported values: \"All\", \"Stderr\", \"Stdout\""
            ),
        )),
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid_named("", "PodLogOptions", pod, &errors));
    }
    Ok(LogsRequest {
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        since_seconds,
        since_time: since_time.to_owned(),
        timestamps: query.flag("timestamps"),
        tail_lines,
        limit_bytes,
        stream: stream.to_owned(),
    })
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(|container| container["name"].as_str())
        .collect()
}

/// The container whose log is wanted; a pod with several needs to be told which.
pub(super) fn container(pod: &Value, wanted: &str) -> Result<String, ApiError> {
    let spec = &pod["spec"];
    let main = names(&spec["containers"]);
    let init = names(&spec["initContainers"]);
    let ephemeral = names(&spec["ephemeralContainers"]);
    let name = object::name(pod);
    if !wanted.is_empty() {
        let known = main
            .iter()
            .chain(&init)
            .chain(&ephemeral)
            .any(|known| *known == wanted);
        return if known {
            Ok(wanted.to_owned())
        } else {
            Err(ApiError::bad_request(format!(
                "container {wanted} is not valid for pod {name}"
            )))
        };
    }
    if let [only] = main.as_slice() {
        return Ok((*only).to_owned());
    }
    let mut message = format!(
        "a container name must be specified for pod {name}, choose one of: [{}]",
        main.join(" ")
    );
    if !init.is_empty() {
        message.push_str(&format!(
            " or one of the init containers: [{}]",
            init.join(" ")
        ));
    }
    if !ephemeral.is_empty() {
        message.push_str(&format!(
            " or one of the ephemeral containers: [{}]",
            ephemeral.join(" ")
        ));
    }
    Err(ApiError::bad_request(message))
}

#[cfg(test)]
mod tests;
