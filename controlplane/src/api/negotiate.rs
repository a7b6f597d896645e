//! Media types: what the client sends, and what it wants to get. Pure.

use super::protobuf::MEDIA_TYPE;
use crate::registry::ApiError;

/// What [`ApiError::not_acceptable`] tells clients.
const PRODUCED: &str = "application/json, application/yaml";
/// The same for bodies.
const CONSUMED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const PATCHES: &str = "application/json-patch+json, application/merge-patch+json, \
    application/strategic-merge-patch+json, application/apply-patch+yaml";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
    /// In bodies only.
    Protobuf,
}

/// In what shape objects are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Object,
    /// Rows for `kubectl get`; the version of `meta.k8s.io`.
    Table(&'static str),
    PartialMetadata(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) encoding: Encoding,
    pub(crate) shape: Shape,
}

pub(crate) const JSON: Format = Format {
    encoding: Encoding::Json,
    shape: Shape::Object,
};

/// One entry of an Accept header.
#[derive(Debug, Default)]
pub(crate) struct MediaRange<'a> {
    pub(crate) media_type: String,
    parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl MediaRange<'_> {
    pub(crate) fn parameter(&self, name: &str) -> &str {
        self.parameters
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map_or("", |(_, value)| value)
    }
}

/// The entries of an Accept header, most wanted first.
pub(crate) fn media_ranges(accept: &str) -> Vec<MediaRange<'_>> {
    let mut ranges: Vec<MediaRange<'_>> = accept
        .split(',')
        .filter(|entry| !entry.trim().is_empty())
        .map(|entry| {
            let mut parts = entry.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or("").to_ascii_lowercase();
            let mut range = MediaRange {
                media_type,
                quality: 1.0,
                ..MediaRange::default()
            };
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                let value = value.trim().trim_matches('"');
                if name.trim() == "q" {
                    range.quality = value.parse().unwrap_or(0.0);
                } else {
                    range.parameters.push((name.trim(), value));
                }
            }
            range
        })
        .filter(|range| range.quality > 0.0)
        .collect();
    ranges.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    ranges
}

/// The first format in the client's order that there is.
pub(crate) fn accept(header: &str) -> Result<Format, ApiError> {
    if header.trim().is_empty() {
        return Ok(JSON);
    }
    media_ranges(header)
        .iter()
        .find_map(format)
        .ok_or_else(|| ApiError::not_acceptable(PRODUCED))
}

/// Metadata of a list cannot be asked of one object.
pub(crate) fn of_one(header: &str) -> Result<(), ApiError> {
    if wants(header, LIST) {
        let why = format!("you requested {LIST}, but the requested object is not a list");
        return Err(ApiError::new(406, "NotAcceptable", why));
    }
    Ok(())
}

/// Nor that of one object of a list.
pub(crate) fn of_list(header: &str) -> Result<(), ApiError> {
    if wants(header, ONE) {
        let why = format!("you requested {ONE}, but the requested object is a list");
        return Err(ApiError::new(406, "NotAcceptable", why));
    }
    Ok(())
}

const ONE: &str = "PartialObjectMetadata";
const LIST: &str = "PartialObjectMetadataList";

/// Whether the first format that there is has this view.
fn wants(header: &str, view: &str) -> bool {
    media_ranges(header)
        .iter()
        .find(|range| format(range).is_some())
        .is_some_and(|range| range.parameter("as") == view)
}

/// For what is answered and not stored: it has no rows and no metadata of its own.
pub(crate) fn accept_object(header: &str) -> Result<Encoding, ApiError> {
    if header.trim().is_empty() {
        return Ok(Encoding::Json);
    }
    media_ranges(header)
        .iter()
        .find_map(|range| format(range).filter(|found| found.shape == Shape::Object))
        .map(|found| found.encoding)
        .ok_or_else(|| ApiError::not_acceptable(PRODUCED))
}

/// For documents that there are in these media types only.
pub(crate) fn accept_one_of(header: &str, produced: &[&str]) -> Result<(), ApiError> {
    let all = ["*/*", "application/*"];
    let fits = |range: &MediaRange<'_>| {
        let wanted = range.media_type.as_str();
        all.contains(&wanted) || produced.contains(&wanted)
    };
    if header.trim().is_empty() || media_ranges(header).iter().any(fits) {
        return Ok(());
    }
    Err(ApiError::not_acceptable(&produced.join(", ")))
}

fn format(range: &MediaRange<'_>) -> Option<Format> {
    let encoding = match range.media_type.as_str() {
        "application/json" | "application/*" | "*/*" => Encoding::Json,
        "application/yaml" => Encoding::Yaml,
        _ => return None,
    };
    let version = match range.parameter("v") {
        "v1beta1" => "v1beta1",
        "" | "v1" => "v1",
        _ => return None,
    };
    let meta = matches!(range.parameter("g"), "meta.k8s.io");
    let shape = match range.parameter("as") {
        "" => Shape::Object,
        "Table" if meta => Shape::Table(version),
        ONE | LIST if meta => Shape::PartialMetadata(version),
        _ => return None,
    };
    Some(Format { encoding, shape })
}

/// How a body is to be read.
pub(crate) fn content(header: &str) -> Result<Encoding, ApiError> {
    match essence(header).as_str() {
        "" | "application/json" => Ok(Encoding::Json),
        "application/yaml" => Ok(Encoding::Yaml),
        MEDIA_TYPE => Ok(Encoding::Protobuf),
        _ => Err(ApiError::unsupported_media_type(CONSUMED)),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PatchMedia {
    Json,
    Merge,
    Strategic,
    Apply,
}

pub(crate) fn patch_content(header: &str) -> Result<PatchMedia, ApiError> {
    match essence(header).as_str() {
        "application/json-patch+json" => Ok(PatchMedia::Json),
        "application/merge-patch+json" => Ok(PatchMedia::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchMedia::Strategic),
        "application/apply-patch+yaml" => Ok(PatchMedia::Apply),
        _ => Err(ApiError::unsupported_media_type(PATCHES)),
    }
}

fn essence(header: &str) -> String {
    let essence = header.split(';').next().unwrap_or("");
    essence.trim().to_ascii_lowercase()
}

/// Whether the client can read gzip.
pub(crate) fn accepts_gzip(header: &str) -> bool {
    media_ranges(header)
        .iter()
        .any(|range| range.media_type == "gzip")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_kubectl_asks_for() {
        let get = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accept(get).unwrap().shape, Shape::Table("v1"));
        let old = "application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json";
        assert_eq!(accept(old).unwrap().shape, Shape::Table("v1beta1"));
        let go = "application/vnd.kubernetes.protobuf, */*";
        assert_eq!(accept(go).unwrap(), JSON);
        let partial = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        assert_eq!(accept(partial).unwrap().shape, Shape::PartialMetadata("v1"));
        assert_eq!(accept("").unwrap(), JSON);
        assert_eq!(accept("application/yaml").unwrap().encoding, Encoding::Yaml);
        assert_eq!(
            accept("application/json;q=0.1,application/yaml")
                .unwrap()
                .encoding,
            Encoding::Yaml
        );
        assert_eq!(
            accept("application/vnd.kubernetes.protobuf")
                .unwrap_err()
                .code(),
            406
        );
        assert_eq!(accept("text/html").unwrap_err().code(), 406);
    }

    #[test]
    fn bodies_and_patches() {
        assert_eq!(
            content("application/json; charset=utf-8").unwrap(),
            Encoding::Json
        );
        assert_eq!(
            content("application/vnd.kubernetes.protobuf").unwrap(),
            Encoding::Protobuf
        );
        assert_eq!(content("application/cbor").unwrap_err().code(), 415);
        assert_eq!(
            patch_content("application/apply-patch+yaml").unwrap(),
            PatchMedia::Apply
        );
        assert_eq!(patch_content("application/json").unwrap_err().code(), 415);
        assert!(accepts_gzip("gzip, deflate"));
        assert!(!accepts_gzip("gzip;q=0"));
    }

    proptest! {
        #[test]
        fn any_header_is_judged_without_panic(header in "\\PC{0,100}") {
            let _ = accept(&header);
            let _ = content(&header);
            let _ = patch_content(&header);
            let _ = accepts_gzip(&header);
        }
    }
}
