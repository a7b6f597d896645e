//! Answers: status codes, headers, bodies, compression. Long lists are streamed in pieces.

use std::io::Write;
use std::sync::Arc;

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY, WARNING, WWW_AUTHENTICATE,
};
use http::{HeaderValue, Response, StatusCode};
use serde_json::Value;

use super::negotiate::Encoding;
use super::ordered;
use crate::kinds::Kind;
use crate::registry::list::ListPage;
use crate::registry::{ApiError, object};
use crate::store::KeyValue;

/// Bodies beyond this are compressed for those who can read it.
const COMPRESS_FROM: usize = 128 * 1024;
/// Size of the pieces of a streamed body.
const PIECE: usize = 64 * 1024;
const MAX_WARNINGS: usize = 10;
const MAX_WARNING: usize = 512;

pub(super) fn json(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    with_type(status, "application/json", body)
}

pub(super) fn text(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    with_type(status, "text/plain; charset=utf-8", body)
}

pub(super) fn with_type(
    status: StatusCode,
    media_type: &'static str,
    body: impl Into<Body>,
) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

pub(super) fn value(status: StatusCode, value: &Value) -> Response<Body> {
    json(status, ordered::line(value))
}

/// A line of JSON; what is in memory once is not copied.
pub(super) fn line(bytes: Bytes) -> Bytes {
    if bytes.ends_with(b"\n") {
        return bytes;
    }
    let mut line = BytesMut::from(bytes);
    line.put_u8(b'\n');
    line.freeze()
}

/// A single object that is JSON already, in the encoding that the client wants.
pub(super) fn object(
    status: StatusCode,
    encoding: Encoding,
    bytes: Bytes,
) -> Result<Response<Body>, ApiError> {
    match encoding {
        Encoding::Json | Encoding::Protobuf => Ok(json(status, line(bytes))),
        Encoding::Yaml => {
            let value: Value = serde_json::from_slice(&bytes).map_err(ApiError::internal)?;
            let yaml = serde_saphyr::to_string(&value).map_err(ApiError::internal)?;
            Ok(with_type(status, "application/yaml", yaml))
        }
    }
}

pub(super) fn status_json(error: &ApiError) -> Bytes {
    ordered::text(&status_of(error)).into()
}

fn status_of(error: &ApiError) -> Value {
    serde_json::to_value(&*error.status).expect("a Status always serializes")
}

pub(super) fn error(error: &ApiError) -> Response<Body> {
    let status = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = value(status, &status_of(error));
    if let Some(seconds) = error.retry_after() {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status == StatusCode::UNAUTHORIZED {
        let bearer = HeaderValue::from_static("Bearer realm=\"waggle\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, bearer);
    }
    response
}

pub(super) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings.iter().take(MAX_WARNINGS) {
        let mut escaped = String::with_capacity(warning.len() + 8);
        for character in warning.chars().take(MAX_WARNING) {
            if matches!(character, '"' | '\\') {
                escaped.push('\\');
            }
            escaped.push(if character.is_control() {
                ' '
            } else {
                character
            });
        }
        if let Ok(header) = HeaderValue::from_bytes(format!("299 - \"{escaped}\"").as_bytes()) {
            response.headers_mut().append(WARNING, header);
        }
    }
}

/// The beginning of a list: everything before the first item.
fn list_head(kind: &Kind<'_>, revision: u64, page: &ListPage) -> String {
    let mut metadata = serde_json::json!({"resourceVersion": revision.to_string()});
    if let Some(token) = &page.continue_token {
        metadata["continue"] = token.clone().into();
        if let Some(remaining) = page.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
    }
    format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
        kind.list_kind(),
        kind.api_version()
    )
}

/// Items as they are stored, shared with every other reader.
pub(super) fn list(kind: &Kind<'_>, page: ListPage, gzip: bool) -> Response<Body> {
    let head = Bytes::from(list_head(kind, page.revision, &page));
    let size: usize = page.items.iter().map(|kv| kv.value.len() + 32).sum();
    let items = Arc::<[Arc<KeyValue>]>::from(page.items);
    let count = items.len();
    let end = Bytes::from_static(b"]}\n");
    let item = |before: Bytes, kv: &KeyValue| {
        let [start, version, rest] = object::parts(kv);
        [before, start, version, rest]
    };
    let pieces = (0..=count).map(move |at| match (at, items.get(at)) {
        (0, Some(kv)) => item(head.clone(), kv),
        (_, Some(kv)) => item(Bytes::from_static(b","), kv),
        (0, None) => [head.clone(), end.clone(), Bytes::new(), Bytes::new()],
        (_, None) => [end.clone(), Bytes::new(), Bytes::new(), Bytes::new()],
    });
    streamed(pieces.flatten(), size, gzip)
}

/// A body made of many small parts, joined to pieces of some size and compressed where that pays.
pub(super) fn streamed(
    parts: impl Iterator<Item = Bytes> + Send + 'static,
    size: usize,
    gzip: bool,
) -> Response<Body> {
    let compress = gzip && size > COMPRESS_FROM;
    let pieces = Pieces {
        parts,
        encoder: compress.then(|| GzEncoder::new(Vec::new(), Compression::fast())),
        done: false,
    };
    let stream = futures::stream::iter(pieces.map(Ok::<_, std::convert::Infallible>));
    let mut response = json(StatusCode::OK, Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    if compress {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

struct Pieces<I> {
    parts: I,
    encoder: Option<GzEncoder<Vec<u8>>>,
    done: bool,
}

impl<I: Iterator<Item = Bytes>> Iterator for Pieces<I> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut piece = BytesMut::new();
        loop {
            let Some(part) = self.parts.next() else {
                self.done = true;
                if let Some(encoder) = self.encoder.take() {
                    // Writing to memory cannot fail; an empty tail would show as a truncated body.
                    piece.put_slice(&encoder.finish().unwrap_or_default());
                }
                return (!piece.is_empty()).then(|| piece.freeze());
            };
            match &mut self.encoder {
                None => piece.put_slice(&part),
                Some(encoder) => {
                    if encoder.write_all(&part).is_err() {
                        self.done = true;
                        return None;
                    }
                    piece.put_slice(&std::mem::take(encoder.get_mut()));
                }
            }
            if piece.len() >= PIECE {
                return Some(piece.freeze());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Read;

    use http_body_util::BodyExt;

    use super::*;
    use crate::registry::scale::SCALE;

    fn page(count: usize, size: usize) -> ListPage {
        let items = (0..count)
            .map(|n| {
                let value = object::encode(&serde_json::json!({
                    "kind": "Scale", "apiVersion": "autoscaling/v1",
                    "metadata": {"name": n.to_string(), "padding": "x".repeat(size)},
                }));
                Arc::new(KeyValue::new("k".into(), value, 1, n as u64 + 1, 1))
            })
            .collect();
        ListPage {
            items,
            revision: 99,
            continue_token: Some("t".into()),
            remaining: Some(3),
        }
    }

    async fn bytes(response: Response<Body>) -> Bytes {
        response.into_body().collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn lists_of_any_length_are_json() {
        for count in [0, 1, 2, 500] {
            let body = bytes(list(&SCALE, page(count, 400), false)).await;
            let value: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(value["items"].as_array().unwrap().len(), count);
            assert_eq!(value["metadata"]["resourceVersion"], "99");
            assert_eq!(value["metadata"]["remainingItemCount"], 3);
        }
    }

    #[tokio::test]
    async fn long_lists_are_compressed_for_those_who_can_read_it() {
        let plain = bytes(list(&SCALE, page(500, 400), false)).await;
        let response = list(&SCALE, page(500, 400), true);
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
        let packed = bytes(response).await;
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&packed[..])
            .read_to_end(&mut unpacked)
            .unwrap();
        assert_eq!(unpacked, plain);
        assert!(
            list(&SCALE, page(2, 4), true)
                .headers()
                .get(CONTENT_ENCODING)
                .is_none()
        );
    }

    #[test]
    fn warnings_are_quoted() {
        let mut response = json(StatusCode::OK, "");
        warn(&mut response, &["unknown field \"spec.x\"\n".to_owned()]);
        assert_eq!(
            response.headers()[WARNING],
            "299 - \"unknown field \\\"spec.x\\\" \""
        );
    }
}
