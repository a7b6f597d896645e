//! `/openapi/v2` and `/openapi/v3`, made from the schema at first use and kept compressed: the documents are
//! large and asked for rarely. What extending servers describe comes to the v2 document ([`merge`]); the v3 documents
//! are one for each group version, so that theirs are only named.

pub(in crate::api) mod merge;

use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
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

use self::merge::Described;
use super::dispatch::header;
use super::negotiate::{accept_one_of, accepts_gzip, media_ranges};
use super::respond;
use crate::kinds::custom::Version;
use crate::registry::definitions::Defined;
use crate::registry::{ApiError, Registry};
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

/// The v2 document in its two forms.
#[derive(Default)]
struct V2 {
    json: OnceLock<Document>,
    protobuf: OnceLock<Document>,
}

impl V2 {
    fn serve(
        &self,
        custom: &[Arc<Version>],
        others: &[Described],
        headers: &HeaderMap,
    ) -> Response<Body> {
        let document = || {
            let mut document = schema::openapi_v2(custom);
            merge::merge(&mut document, others);
            document
        };
        let ranges = media_ranges(header(headers, &ACCEPT));
        let protobuf = ranges
            .first()
            .is_some_and(|range| V2_PROTOBUF.contains(&range.media_type.as_str()));
        if protobuf {
            self.protobuf
                .get_or_init(|| Document::new(&schema::openapi_v2_protobuf(&document())))
                .serve(V2_PROTOBUF[0], headers)
        } else {
            self.json
                .get_or_init(|| Document::new(document().to_string().as_bytes()))
                .serve("application/json", headers)
        }
    }
}

/// The documents as of one generation of definitions.
struct Documents {
    generation: u64,
    custom: Vec<Arc<Version>>,
    v2: Arc<V2>,
    /// Of the group versions that users have defined, under their paths.
    v3: Vec<(String, Document)>,
}

impl Documents {
    fn of(registry: &Registry) -> Arc<Self> {
        static LATEST: ArcSwapOption<Documents> = ArcSwapOption::const_empty();
        let defined = registry.defined();
        if let Some(known) = LATEST.load_full()
            && known.generation == defined.generation
        {
            return known;
        }
        let custom: Vec<Arc<Version>> = defined.served().cloned().collect();
        let mut places: Vec<(&str, &str)> = custom
            .iter()
            .map(|version| (version.common.group.as_str(), version.name.as_str()))
            .collect();
        places.sort_unstable();
        places.dedup();
        let v3 = places
            .iter()
            .filter_map(|(group, version)| document(group, version, &custom))
            .collect();
        let made = Arc::new(Self {
            generation: defined.generation,
            custom,
            v2: Arc::default(),
            v3,
        });
        LATEST.store(Some(Arc::clone(&made)));
        made
    }

    /// With what other servers describe, which is kept until one of them says something else.
    fn v2(&self, others: &[Described], headers: &HeaderMap) -> Response<Body> {
        static LATEST: ArcSwapOption<(u64, Vec<String>, Arc<V2>)> = ArcSwapOption::const_empty();
        if others.is_empty() {
            return self.v2.serve(&self.custom, others, headers);
        }
        let hashes: Vec<String> = others
            .iter()
            .map(|other| format!("{}/{}/{}", other.group, other.version, other.hash))
            .collect();
        let known = LATEST
            .load_full()
            .filter(|known| (known.0, &known.1) == (self.generation, &hashes));
        let known = known.unwrap_or_else(|| {
            let made = Arc::new((self.generation, hashes, Arc::default()));
            LATEST.store(Some(Arc::clone(&made)));
            made
        });
        known.2.serve(&self.custom, others, headers)
    }

    fn all(&self) -> impl Iterator<Item = &(String, Document)> {
        built_in().iter().chain(&self.v3)
    }

    fn index(&self, others: &[(String, Value)]) -> Value {
        let own = self.all().map(|(path, document)| {
            let url = format!("/openapi/v3/{path}?hash={}", document.hash);
            (path.clone(), json!({"serverRelativeURL": url}))
        });
        let paths: Map<String, Value> = own.chain(others.iter().cloned()).collect();
        json!({"paths": paths})
    }
}

/// What other servers describe.
#[derive(Default)]
pub(super) struct Others {
    /// Entries of the index of v3 documents.
    pub(super) v3: Vec<(String, Value)>,
    pub(super) v2: Vec<Described>,
}

pub(super) fn serve(
    registry: &Registry,
    others: &Others,
    segments: &[&str],
    headers: &HeaderMap,
) -> Option<Result<Response<Body>, ApiError>> {
    let documents = Documents::of(registry);
    let wanted = header(headers, &ACCEPT);
    match segments {
        ["v2"] => {
            let produced = [&["application/json"], V2_PROTOBUF].concat();
            let accepted = accept_one_of(wanted, &produced);
            Some(accepted.map(|()| documents.v2(&others.v2, headers)))
        }
        ["v3"] => {
            let index = documents.index(&others.v3);
            Some(Ok(respond::value(StatusCode::OK, &index)))
        }
        ["v3", path @ ..] => {
            let path = path.join("/");
            let (_, document) = documents.all().find(|(known, _)| *known == path)?;
            let accepted = accept_one_of(wanted, &["application/json"]);
            Some(accepted.map(|()| document.serve("application/json", headers)))
        }
        _ => None,
    }
}

/// A group version's document under its path.
fn document(group: &str, version: &str, custom: &[Arc<Version>]) -> Option<(String, Document)> {
    let path = if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    };
    let value = schema::openapi_v3(group, version, custom)?;
    Some((path, Document::new(value.to_string().as_bytes())))
}

/// Every built-in group version that has a document, under its path.
fn built_in() -> &'static [(String, Document)] {
    static DOCUMENTS: OnceLock<Vec<(String, Document)>> = OnceLock::new();
    DOCUMENTS.get_or_init(|| {
        let mut places = vec![(String::new(), "v1".to_owned())];
        for (group, versions) in super::discovery::groups(&Defined::default(), &[]) {
            places.extend(versions.into_iter().map(|version| (group.clone(), version)));
        }
        let places = places.iter();
        places
            .filter_map(|(group, version)| document(group, version, &[]))
            .collect()
    })
}
