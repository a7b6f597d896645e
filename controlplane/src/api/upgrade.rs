//! What a request wants its connection turned into: WebSocket (RFC 6455) or SPDY/3.1, and which protocol on it.
//!
//! Reading and answering are pure; taking the connection over is at the end.

use std::time::Duration;

use axum::body::Body;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::respond;
use crate::registry::ApiError;

const SPDY: &str = "SPDY/3.1";
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");
/// A client that does not take the answer has gone.
const TAKE_OVER: Duration = Duration::from_secs(30);
/// Longest message of a client; those that are known send 32 KiB.
const MAX_MESSAGE: usize = 1 << 20;
const BUFFER: usize = 32 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    WebSocket { key: String },
    Spdy,
}

/// What the client asks for.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) way: Way,
    /// Protocols that it knows, best first.
    pub(super) offered: Vec<String>,
    connection: OnUpgrade,
}

/// Comma-separated values of all headers of the name.
fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|value| !value.is_empty())
}

/// Whether the request asks for something else than an answer.
pub(super) fn is_asked(headers: &HeaderMap) -> bool {
    values(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"))
}

fn way(headers: &HeaderMap) -> Option<Way> {
    let mut upgrades = values(headers, &UPGRADE);
    if !is_asked(headers) {
        return None;
    }
    upgrades.find_map(|upgrade| {
        if upgrade.eq_ignore_ascii_case(SPDY) {
            return Some(Way::Spdy);
        }
        let key = headers.get(SEC_WEBSOCKET_KEY)?.to_str().ok()?.to_owned();
        upgrade
            .eq_ignore_ascii_case("websocket")
            .then_some(Way::WebSocket { key })
    })
}

/// Whether it is a WebSocket that is asked for: such requests are GETs whatever they do.
pub(super) fn is_websocket(headers: &HeaderMap) -> bool {
    matches!(way(headers), Some(Way::WebSocket { .. }))
}

pub(super) fn wanted(parts: &Parts) -> Result<Wanted, ApiError> {
    let required = || ApiError::bad_request("Upgrade request required");
    let way = way(&parts.headers).ok_or_else(required)?;
    let connection = parts.extensions.get::<OnUpgrade>().ok_or_else(required)?;
    let name = match way {
        Way::WebSocket { .. } => &SEC_WEBSOCKET_PROTOCOL,
        Way::Spdy => &STREAM_PROTOCOL,
    };
    Ok(Wanted {
        offered: values(&parts.headers, name).map(str::to_owned).collect(),
        way,
        connection: connection.clone(),
    })
}

/// The first protocol of the client that the server knows; who offers none gets the one without a name, if there
/// is one.
pub(super) fn choose<T: Copy>(offered: &[String], known: &[(&str, T)]) -> Option<(String, T)> {
    let find = |name: &str| {
        let found = known.iter().find(|(known, _)| *known == name);
        found.map(|(name, protocol)| ((*name).to_owned(), *protocol))
    };
    if offered.is_empty() {
        return find("");
    }
    offered.iter().find_map(|name| find(name))
}

/// No protocol is known to both.
pub(super) fn disagree<T>(offered: &[String], known: &[(&str, T)]) -> Response<Body> {
    let names: Vec<&str> = known
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !name.is_empty())
        .collect();
    let text = format!(
        "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
        offered.join(" "),
        names.join(" ")
    );
    let mut response = respond::text(StatusCode::FORBIDDEN, text);
    for name in names {
        if let Ok(name) = HeaderValue::from_str(name) {
            response.headers_mut().append(ACCEPTED_PROTOCOLS, name);
        }
    }
    response
}

impl Wanted {
    /// The answer after which the connection is the stream's.
    pub(super) fn answer(&self, protocol: &str) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        let (upgrade, name) = match &self.way {
            Way::Spdy => (SPDY, STREAM_PROTOCOL),
            Way::WebSocket { key } => {
                let accept = derive_accept_key(key.as_bytes());
                if let Ok(accept) = HeaderValue::from_str(&accept) {
                    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
                }
                ("websocket", SEC_WEBSOCKET_PROTOCOL)
            }
        };
        headers.insert(UPGRADE, HeaderValue::from_static(upgrade));
        if let (false, Ok(protocol)) = (protocol.is_empty(), HeaderValue::from_str(protocol)) {
            headers.insert(name, protocol);
        }
        response
    }

    /// The connection, once the answer is written.
    pub(super) async fn connection(self) -> Option<TokioIo<Upgraded>> {
        match tokio::time::timeout(TAKE_OVER, self.connection).await {
            Ok(Ok(upgraded)) => Some(TokioIo::new(upgraded)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a connection was not taken over");
                None
            }
            Err(_) => None,
        }
    }

    pub(super) async fn websocket(self) -> Option<WebSocketStream<TokioIo<Upgraded>>> {
        let connection = self.connection().await?;
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(BUFFER)
            .max_write_buffer_size(4 * MAX_MESSAGE)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let server = Role::Server;
        Some(WebSocketStream::from_raw_socket(connection, server, Some(config)).await)
    }
}

#[cfg(test)]
mod tests;
