//! `/openapi/v2` and `/openapi/v3`, made from the schema at first use and kept compressed: the documents are
//! large and asked for rarely.

use std::io::{Read, Write};
use std::sync::OnceLock;

use axum::body::Body;
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, ETAG, IF_NONE_MATCH, VARY,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::dispatch::header;
use super::negotiate::{accepts_gzip, media_ranges};
use super::respond;
use crate::schema;

/// A document, gzip, and its hash.
struct Document {
    gzip: Bytes,
    hash: String,
}

impl Document {
    fn new(plain: &[u8]) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let gzip = encoder
            .write_all(plain)
            .and_then(|()| encoder.finish())
            .unwrap_or_default();
        Self {
            gzip: gzip.into(),
            hash: hex::encode_upper(Sha256::digest(plain)),
        }
    }

    fn serve(&self, media_type: &'static str, headers: &HeaderMap) -> Response<Body> {
        let etag = format!("\"{}\"", self.hash);
        let known = header(headers, &IF_NONE_MATCH);
        let mut response = if known.split(',').any(|tag| tag.trim() == etag) {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else if accepts_gzip(header(headers, &ACCEPT_ENCODING)) {
            let mut response = respond::with_type(StatusCode::OK, media_type, self.gzip.clone());
            response
                .headers_mut()
                .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response
        } else {
            let mut plain = Vec::new();
            // Our own bytes: they unpack.
            let _ = GzDecoder::new(&self.gzip[..]).read_to_end(&mut plain);
            respond::with_type(StatusCode::OK, media_type, plain)
        };
        let set = response.headers_mut();
        if let Ok(etag) = HeaderValue::from_str(&etag) {
            set.insert(ETAG, etag);
        }
        set.insert(VARY, HeaderValue::from_static("Accept-Encoding, Accept"));
        set.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        response
    }
}

/// Asked for with an `@`, which is no valid media type: answers say it with a dot.
const V2_PROTOBUF: &[&str] = &[
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
];

pub(super) fn serve(segments: &[&str], headers: &HeaderMap) -> Option<Response<Body>> {
    match segments {
        ["v2"] => Some(v2(headers)),
        ["v3"] => Some(respond::value(StatusCode::OK, &index())),
        ["v3", path @ ..] => {
            let path = path.join("/");
            let (_, document) = documents().iter().find(|(known, _)| *known == path)?;
            Some(document.serve("application/json", headers))
        }
        _ => None,
    }
}

fn v2(headers: &HeaderMap) -> Response<Body> {
    static JSON: OnceLock<Document> = OnceLock::new();
    static PROTOBUF: OnceLock<Document> = OnceLock::new();
    let ranges = media_ranges(header(headers, &ACCEPT));
    let protobuf = ranges
        .first()
        .is_some_and(|range| V2_PROTOBUF.contains(&range.media_type.as_str()));
    if protobuf {
        PROTOBUF
            .get_or_init(|| Document::new(&schema::openapi_v2_protobuf()))
            .serve(V2_PROTOBUF[0], headers)
    } else {
        JSON.get_or_init(|| Document::new(schema::openapi_v2().to_string().as_bytes()))
            .serve("application/json", headers)
    }
}

/// Every group version that has a document, under its path.
fn documents() -> &'static [(String, Document)] {
    static DOCUMENTS: OnceLock<Vec<(String, Document)>> = OnceLock::new();
    DOCUMENTS.get_or_init(|| {
        let mut paths = vec![("api/v1".to_owned(), "", "v1")];
        for (group, versions) in super::discovery::groups() {
            for version in versions {
                paths.push((format!("apis/{group}/{version}"), group, version));
            }
        }
        paths
            .into_iter()
            .filter_map(|(path, group, version)| {
                let value = schema::openapi_v3(group, version)?;
                Some((path, Document::new(value.to_string().as_bytes())))
            })
            .collect()
    })
}

fn index() -> Value {
    let paths: Map<String, Value> = documents()
        .iter()
        .map(|(path, document)| {
            let url = format!("/openapi/v3/{path}?hash={}", document.hash);
            (path.clone(), json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}
