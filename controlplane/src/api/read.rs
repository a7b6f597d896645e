//! Get and list.

use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::json;

use super::negotiate::{Encoding, Format, Shape};
use super::request::Query;
use super::table::{Include, View};
use super::{Api, respond};
use crate::kinds::{Kind, KindRef};
use crate::registry::list::{ListOptions, ListPage, VersionMatch};
use crate::registry::selector::Selector;
use crate::registry::{ApiError, Written, object, scale};
use crate::store::Freshness;

/// What a request is about, once it is known to be served.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) handle: &'a KindRef,
    pub(super) kind: &'a Kind<'a>,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) subresource: &'a str,
}

/// How the client wants the answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    pub(super) format: Format,
    pub(super) gzip: bool,
}

pub(super) fn resource_version(query: &Query) -> Result<Option<u64>, ApiError> {
    match query.get("resourceVersion") {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            ApiError::bad_request(format!(
                "Invalid value: \"{text}\": resourceVersion: must be an unsigned integer"
            ))
        }),
    }
}

pub(super) fn version_match(query: &Query) -> Result<VersionMatch, ApiError> {
    match query.get("resourceVersionMatch") {
        "" => Ok(VersionMatch::Unset),
        "Exact" => Ok(VersionMatch::Exact),
        "NotOlderThan" => Ok(VersionMatch::NotOlderThan),
        other => Err(ApiError::invalid_named(
            "meta.k8s.io",
            "ListOptions",
            "",
            &[crate::registry::error::field_error(
                "resourceVersionMatch",
                crate::kinds::Cause::NotSupported,
                format!(
                    "Unsupported value: \"{other}\": supported values: \"Exact\", \"NotOlderThan\""
                ),
            )],
        )),
    }
}

pub(super) fn list_options(kind: &Kind<'_>, query: &Query) -> Result<ListOptions, ApiError> {
    let limit: i64 = query.number("limit")?.unwrap_or(0);
    query.number::<i64>("timeoutSeconds")?;
    let forbidden = |field: &str, why: &str| {
        let message = format!("Forbidden: {why}");
        let error =
            crate::registry::error::field_error(field, crate::kinds::Cause::Forbidden, message);
        ApiError::invalid_named("meta.k8s.io", "ListOptions", "", &[error])
    };
    if query.has("sendInitialEvents") {
        return Err(forbidden(
            "sendInitialEvents",
            "sendInitialEvents is forbidden for list",
        ));
    }
    if version_match(query)? != VersionMatch::Unset && !query.get("continue").is_empty() {
        return Err(forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden when continue is provided",
        ));
    }
    Ok(ListOptions {
        selector: Selector::parse(kind, query.get("labelSelector"), query.get("fieldSelector"))?,
        limit: usize::try_from(limit).unwrap_or(0),
        continue_token: query.get("continue").to_owned(),
        resource_version: resource_version(query)?,
        version_match: version_match(query)?,
    })
}

pub(super) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

impl Api {
    pub(super) async fn get(
        &self,
        subject: Subject<'_>,
        query: &Query,
        wish: Wish,
    ) -> Result<Response<Body>, ApiError> {
        let at_least = resource_version(query)?.unwrap_or(0);
        let freshness = match query.get("resourceVersion") {
            "0" => Freshness::Local,
            _ => Freshness::Linearizable,
        };
        let Subject {
            kind,
            namespace,
            name,
            subresource,
            ..
        } = subject;
        let kv = self.registry.get(kind, namespace, name, freshness).await?;
        let current = self.registry.store().revision();
        if at_least > current {
            return Err(ApiError::future_revision(at_least, current));
        }
        if subresource == "scale" {
            let live = self
                .registry
                .one_to_served(kind, object::decode(&kv))
                .await?;
            let scale = scale::of(kind, &live);
            return respond::object(
                StatusCode::OK,
                wish.format.encoding,
                scale.to_string().into(),
            );
        }
        let written = Written::Stored(kv);
        let status = StatusCode::OK;
        self.show(subject.handle, &written, status, query, wish)
            .await
    }

    /// One object in the shape and encoding that the client wants.
    pub(super) async fn show(
        &self,
        kind: &KindRef,
        written: &Written,
        status: StatusCode,
        query: &Query,
        wish: Wish,
    ) -> Result<Response<Body>, ApiError> {
        let plain = wish.format.shape == Shape::Object && kind.shows_what_is_stored();
        let bytes = match written {
            Written::Stored(kv) if plain => object::splice(&kv.value, kv.mod_revision),
            other => {
                let view = View {
                    kind: kind.clone(),
                    shape: wish.format.shape,
                    include: Include::parse(query.get("includeObject"))?,
                };
                let shown = self.shown(&view, other.to_value(), now()).await?;
                shown.to_string().into()
            }
        };
        respond::object(status, wish.format.encoding, bytes)
    }

    pub(super) async fn list(
        &self,
        subject: Subject<'_>,
        query: &Query,
        wish: Wish,
    ) -> Result<Response<Body>, ApiError> {
        let kind = subject.kind;
        let options = list_options(kind, query)?;
        let page = self
            .registry
            .list(kind, subject.namespace, &options)
            .await?;
        self.show_list(subject.handle, page, query, wish).await
    }

    pub(super) async fn show_list(
        &self,
        kind: &KindRef,
        page: ListPage,
        query: &Query,
        wish: Wish,
    ) -> Result<Response<Body>, ApiError> {
        let Format { shape, encoding } = wish.format;
        if shape == Shape::Object && encoding == Encoding::Json && kind.shows_what_is_stored() {
            return Ok(respond::list(&kind.get(), page, wish.gzip));
        }
        let mut metadata = json!({"resourceVersion": page.revision.to_string()});
        if let Some(token) = page.continue_token {
            metadata["continue"] = token.into();
            if let Some(remaining) = page.remaining {
                metadata["remainingItemCount"] = remaining.into();
            }
        }
        let view = View {
            kind: kind.clone(),
            shape,
            include: Include::parse(query.get("includeObject"))?,
        };
        let objects = page.items.iter().map(|kv| object::decode(kv)).collect();
        let objects = self.served(kind, objects).await?;
        let bytes = bytes::Bytes::from(view.list(metadata, objects, now()).to_string());
        let bytes = respond::line(bytes);
        if encoding == Encoding::Json {
            let size = bytes.len();
            return Ok(respond::streamed(std::iter::once(bytes), size, wish.gzip));
        }
        respond::object(StatusCode::OK, encoding, bytes)
    }
}
