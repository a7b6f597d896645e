//! A log over a WebSocket, as scripts in browsers read it: a message for each piece, without channels.

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::{SinkExt as _, StreamExt as _};
use http::Response;
use http::request::Parts;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use crate::api::remote::end;
use crate::api::upgrade;
use crate::registry::ApiError;

/// Whether messages are base64.
const PROTOCOLS: &[(&str, bool)] = &[
    ("", false),
    ("binary.k8s.io", false),
    ("base64.binary.k8s.io", true),
];

/// Takes the connection over for `log`.
pub(super) fn answer(
    parts: &Parts,
    log: Body,
    stopping: CancellationToken,
) -> Result<Response<Body>, ApiError> {
    let wanted = upgrade::wanted(parts)?;
    let Some((name, base64)) = upgrade::choose(&wanted.offered, PROTOCOLS) else {
        return Ok(upgrade::disagree(&wanted.offered, PROTOCOLS));
    };
    let answer = wanted.answer(&name);
    tokio::spawn(async move {
        let carried = async {
            if let Some(client) = wanted.websocket().await {
                carry(client, base64, log).await;
            }
        };
        tokio::select! {
            () = carried => {}
            () = stopping.cancelled() => {}
        }
    });
    Ok(answer)
}

fn message(base64: bool, bytes: &[u8]) -> Message {
    match base64 {
        true => Message::text(BASE64.encode(bytes)),
        false => Message::binary(bytes.to_vec()),
    }
}

/// Until the log has ended or the client is gone.
async fn carry<IO: AsyncRead + AsyncWrite + Unpin>(
    client: WebSocketStream<IO>,
    base64: bool,
    log: Body,
) {
    let (mut sink, mut source) = client.split();
    let mut pieces = log.into_data_stream();
    let told = async {
        // An empty message says that it begins.
        sink.send(message(base64, &[])).await?;
        while let Some(Ok(piece)) = pieces.next().await {
            sink.send(message(base64, &piece)).await?;
        }
        Ok::<(), Error>(())
    };
    let gone = async { while source.next().await.is_some_and(|said| said.is_ok()) {} };
    let ended = tokio::select! {
        told = told => told.is_ok(),
        () = gone => false,
    };
    if ended {
        end(sink, source).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    /// What a client gets of a log of two pieces, up to its end.
    async fn got(base64: bool) -> Vec<Message> {
        let (ours, theirs) = tokio::io::duplex(1024);
        let pieces = ["a\n", "b\n"].map(Ok::<_, std::convert::Infallible>);
        let log = Body::from_stream(futures::stream::iter(pieces));
        let server = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
        let client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
        let client = client.map(|message| message.unwrap()).collect::<Vec<_>>();
        tokio::join!(client, carry(server, base64, log)).0
    }

    #[tokio::test]
    async fn each_piece_is_a_message_and_the_end_is_orderly() {
        let messages = got(false).await;
        let [begun, first, second, close] = messages.as_slice() else {
            panic!("{messages:?}");
        };
        assert_eq!(*begun, Message::binary(Vec::new()));
        assert_eq!(*first, Message::binary("a\n"));
        assert_eq!(*second, Message::binary("b\n"));
        assert!(close.is_close());
        let messages = got(true).await;
        assert_eq!(messages[1], Message::text("YQo="));
    }
}
