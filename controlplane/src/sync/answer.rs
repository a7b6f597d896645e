//! The body of the answer to a Sync call: gRPC messages, of which what is the same for all nodes is sent from where it is.
//!
//! tonic encodes messages into a buffer of the stream, which for ever stays as large as the largest of them was: with
//! thousands of streams that is more than what is sent. So its answer is an empty one, and this one takes its place
//! ([`complete`]). The framing is that of gRPC over HTTP/2: a byte that says "not compressed", the length in four bytes, big
//! endian, and the message; how the call ended is in trailers.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream;
use http::HeaderMap;
use http_body_util::StreamBody;
use hyper::body::Frame;
use prost::Message as _;
use proto::node::v1::ControlMessage;
use tokio::sync::mpsc;
use tonic::{Response, Status};

/// Below this a message is copied into one piece: a piece is a frame of HTTP/2, and two.
const ONE_PIECE: usize = 4 << 10;
/// Key of `ControlMessage.batch`: field 1, length-delimited.
const BATCH: u8 = 1 << 3 | 2;
const PREFIX: usize = 5;

/// The pieces of one gRPC message, in order, or how the call ended. In a place of its own: a channel keeps room for 32 of what
/// it carries, for each node.
pub(super) type Outbound = Box<Result<VecDeque<Bytes>, Status>>;

fn prefix(length: usize, out: &mut BytesMut) -> Result<(), Status> {
    let length =
        u32::try_from(length).map_err(|_| Status::internal("a message of more than 4 GiB"))?;
    out.put_u8(0);
    out.put_u32(length);
    Ok(())
}

pub(super) fn message(message: &ControlMessage) -> Outbound {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + length);
    Box::new(prefix(length, &mut out).map(|()| {
        message.encode_raw(&mut out);
        [out.freeze()].into()
    }))
}

/// A `ControlMessage` with a batch that is these parts, one after the other.
pub(super) fn batch(parts: Vec<Bytes>) -> Outbound {
    let length: usize = parts.iter().map(Bytes::len).sum();
    let key = 1 + prost::length_delimiter_len(length);
    let whole = length < ONE_PIECE;
    let copied = if whole { length } else { 0 };
    let mut head = BytesMut::with_capacity(PREFIX + key + copied);
    Box::new(prefix(key + length, &mut head).map(|()| {
        head.put_u8(BATCH);
        prost::encode_length_delimiter(length, &mut head).expect("room was made for it");
        if whole {
            parts.iter().for_each(|part| head.extend_from_slice(part));
            return [head.freeze()].into();
        }
        let mut pieces = VecDeque::from(parts);
        pieces.push_front(head.freeze());
        pieces
    }))
}

/// What the body of an answer will be made of, on its way through tonic.
#[derive(Clone)]
struct Waiting(Arc<Mutex<Option<mpsc::Receiver<Outbound>>>>);

/// An answer without messages, for [`complete`].
pub(super) fn begin<S>(messages: mpsc::Receiver<Outbound>, none: S) -> Response<S> {
    let mut response = Response::new(none);
    let waiting = Waiting(Arc::new(Mutex::new(Some(messages))));
    response.extensions_mut().insert(waiting);
    response
}

/// Gives an answer that was begun its body; others stay as they are.
pub(super) async fn complete(mut response: axum::response::Response) -> axum::response::Response {
    let waiting = response.extensions_mut().remove::<Waiting>();
    let messages = waiting.and_then(|Waiting(place)| {
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        place.take()
    });
    match messages {
        Some(messages) => response.map(|_| body(messages)),
        None => response,
    }
}

fn body(messages: mpsc::Receiver<Outbound>) -> Body {
    let begun = (Some(messages), VecDeque::new());
    let frames = stream::unfold(begun, async |(mut messages, mut pieces)| {
        loop {
            if let Some(piece) = pieces.pop_front() {
                return Some((Ok::<_, Infallible>(Frame::data(piece)), (messages, pieces)));
            }
            let status = match messages.as_mut()?.recv().await.map(|next| *next) {
                Some(Ok(next)) => {
                    pieces = next;
                    continue;
                }
                Some(Err(status)) => status,
                None => Status::ok(""),
            };
            let mut trailers = HeaderMap::new();
            if status.add_header(&mut trailers).is_err() {
                trailers.insert("grpc-status", http::HeaderValue::from(status.code() as i32));
            }
            return Some((Ok(Frame::trailers(trailers)), (None, pieces)));
        }
    });
    Body::new(StreamBody::new(frames))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use proto::node::v1::control_message::Message;

    use super::*;

    fn joined(outbound: Result<VecDeque<Bytes>, Status>) -> Vec<u8> {
        outbound.unwrap().into_iter().flatten().collect()
    }

    proptest! {
        /// As tonic would have written it, and what is large is not copied.
        #[test]
        fn a_batch_is_framed_in_pieces(sizes in proptest::collection::vec(0_usize..9_000, 0..6)) {
            let parts: Vec<Bytes> = sizes.iter().map(|size| vec![7; *size].into()).collect();
            let all: Vec<u8> = parts.iter().flatten().copied().collect();
            let same = ControlMessage { message: Some(Message::Batch(all.clone().into())) };
            let pieces = *batch(parts.clone());
            if all.len() >= ONE_PIECE {
                let sent = pieces.as_ref().unwrap();
                prop_assert!(sent.iter().skip(1).map(|piece| piece.as_ptr()).eq(parts.iter().map(|part| part.as_ptr())));
            }
            prop_assert_eq!(joined(pieces), joined(*message(&same)));
        }
    }

    #[test]
    fn a_message_has_its_length_before_it() {
        let message = ControlMessage {
            message: Some(Message::Batch(Bytes::from_static(b"xyz"))),
        };
        assert_eq!(
            joined(*super::message(&message)),
            b"\0\0\0\0\x05\x0a\x03xyz"
        );
    }
}
