//! Lists: pages at one revision, continue tokens, and what `resourceVersion` and `resourceVersionMatch` ask for.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::error::field_error;
use super::selector::Selector;
use super::{ApiError, Registry, key};
use crate::kinds::{Cause, Kind};
use crate::store::{Freshness, KeyValue, RangeRequest, StoreError};

/// How many keys are read at once while a selector sifts a limited list.
const SIFT: usize = 500;

#[derive(Debug, Clone, Default)]
pub(crate) struct ListOptions {
    pub(crate) selector: Selector,
    /// 0 is no limit.
    pub(crate) limit: usize,
    pub(crate) continue_token: String,
    /// `None` is absent, which means "the newest".
    pub(crate) resource_version: Option<u64>,
    pub(crate) version_match: VersionMatch,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum VersionMatch {
    #[default]
    Unset,
    NotOlderThan,
    Exact,
}

#[derive(Debug)]
pub(crate) struct ListPage {
    pub(crate) items: Vec<Arc<KeyValue>>,
    pub(crate) revision: u64,
    pub(crate) continue_token: Option<String>,
    /// Unknown where a selector sifts.
    pub(crate) remaining: Option<u64>,
}

/// What a continue token says. `revision` 0 goes on at the newest state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Continue {
    #[serde(rename = "v")]
    format: String,
    #[serde(rename = "rv")]
    pub(crate) revision: u64,
    /// The last key of the page before, without the prefix of the list.
    pub(crate) start: String,
}

const FORMAT: &str = "meta.k8s.io/v1";
const MAX_TOKEN: usize = 4096;

impl Continue {
    pub(crate) fn new(revision: u64, start: &str) -> Self {
        Self {
            format: FORMAT.to_owned(),
            revision,
            start: start.to_owned(),
        }
    }

    pub(crate) fn encode(&self) -> String {
        let json = serde_json::to_vec(self).expect("text and a number serialize");
        URL_SAFE_NO_PAD.encode(json)
    }

    pub(crate) fn decode(token: &str) -> Result<Self, ApiError> {
        let invalid =
            |why: &str| ApiError::bad_request(format!("continue key is not valid: {why}"));
        if token.len() > MAX_TOKEN {
            return Err(invalid("too long"));
        }
        let json = URL_SAFE_NO_PAD
            .decode(token.trim_end_matches('='))
            .map_err(|error| invalid(&error.to_string()))?;
        let parsed: Self =
            serde_json::from_slice(&json).map_err(|error| invalid(&error.to_string()))?;
        if parsed.format != FORMAT {
            return Err(invalid(&format!(
                "unrecognized version \"{}\"",
                parsed.format
            )));
        }
        if parsed.start.is_empty() {
            return Err(invalid("start is empty"));
        }
        Ok(parsed)
    }
}

/// Which state a list is taken from.
#[derive(Debug, PartialEq, Eq)]
struct At {
    revision: Option<u64>,
    freshness: Freshness,
    /// The state must have reached this.
    at_least: u64,
    /// Key to go on after, without the prefix.
    start: Option<String>,
}

impl ListOptions {
    fn at(&self) -> Result<At, ApiError> {
        if !self.continue_token.is_empty() {
            if self.resource_version.is_some_and(|version| version > 0) {
                return Err(ApiError::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let token = Continue::decode(&self.continue_token)?;
            return Ok(At {
                revision: (token.revision > 0).then_some(token.revision),
                freshness: Freshness::Linearizable,
                at_least: 0,
                start: Some(token.start),
            });
        }
        let (revision, freshness, at_least) = match (self.resource_version, self.version_match) {
            (None, VersionMatch::Unset) => (None, Freshness::Linearizable, 0),
            (None, _) => {
                return Err(version_match_forbidden(
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            (Some(0), VersionMatch::Exact) => {
                return Err(version_match_forbidden(
                    "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
            (Some(0), _) => (None, Freshness::Local, 0),
            (Some(version), VersionMatch::Exact) => (Some(version), Freshness::Local, 0),
            // Without a match, a limit has always meant "exactly this state".
            (Some(version), VersionMatch::Unset) if self.limit > 0 => {
                (Some(version), Freshness::Local, 0)
            }
            (Some(version), _) => (None, Freshness::Linearizable, version),
        };
        Ok(At {
            revision,
            freshness,
            at_least,
            start: None,
        })
    }
}

pub(crate) fn version_match_forbidden(why: &str) -> ApiError {
    ApiError::invalid_named(
        "meta.k8s.io",
        "ListOptions",
        "",
        &[field_error(
            "resourceVersionMatch",
            Cause::Forbidden,
            format!("Forbidden: {why}"),
        )],
    )
}

impl Registry {
    pub(crate) async fn list(
        &self,
        kind: &Kind<'_>,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<ListPage, ApiError> {
        let kind = super::versions::stored(kind);
        let at = options.at()?;
        if let Some(name) = options.selector.only_name()
            && at.start.is_none()
            && at.revision.is_none()
            && !(namespace.is_empty() && kind.scope == crate::kinds::Scope::Namespaced)
        {
            return self.list_one(kind, namespace, name, options, &at).await;
        }
        let prefix = key::prefix(kind, namespace);
        let sifting = !options.selector.selects_everything();
        let mut items: Vec<Arc<KeyValue>> = Vec::new();
        let mut after = at.start.as_ref().map(|start| format!("{prefix}{start}"));
        let mut revision = at.revision;
        loop {
            let request = RangeRequest {
                prefix: prefix.clone(),
                after: after.clone(),
                limit: match (options.limit, sifting) {
                    (0, _) => 0,
                    (limit, false) => limit,
                    (limit, true) => limit.max(SIFT),
                },
                revision,
                freshness: at.freshness,
            };
            let page = match self.store().range(request).await {
                Ok(page) => page,
                Err(StoreError::Compacted { .. }) if !options.continue_token.is_empty() => {
                    let start = at.start.as_deref().unwrap_or("");
                    return Err(ApiError::expired_continue()
                        .with_continue(Continue::new(0, start).encode()));
                }
                Err(error) => return Err(error.into()),
            };
            if page.revision < at.at_least {
                return Err(ApiError::future_revision(at.at_least, page.revision));
            }
            revision = Some(page.revision);
            let read = page.items.len();
            for (index, kv) in page.items.into_iter().enumerate() {
                after = Some(kv.key.to_string());
                if !sifting || options.selector.matches(kind, &kv) {
                    items.push(kv);
                }
                let full = options.limit > 0 && items.len() >= options.limit;
                if full && (index + 1 < read || page.more) {
                    let last = after.as_deref().and_then(|key| key.strip_prefix(&prefix));
                    return Ok(ListPage {
                        items,
                        revision: page.revision,
                        continue_token: last
                            .map(|last| Continue::new(page.revision, last).encode()),
                        remaining: (!sifting).then_some(page.remaining),
                    });
                }
            }
            if !page.more {
                return Ok(ListPage {
                    items,
                    revision: page.revision,
                    continue_token: None,
                    remaining: None,
                });
            }
        }
    }

    /// A list that a field selector narrows to one name reads one key.
    async fn list_one(
        &self,
        kind: &Kind<'_>,
        namespace: &str,
        name: &str,
        options: &ListOptions,
        at: &At,
    ) -> Result<ListPage, ApiError> {
        let request = RangeRequest {
            prefix: key::object(kind, namespace, name),
            after: None,
            limit: 1,
            revision: None,
            freshness: at.freshness,
        };
        let page = self.store().range(request).await?;
        if page.revision < at.at_least {
            return Err(ApiError::future_revision(at.at_least, page.revision));
        }
        let mut items = page.items;
        items.retain(|kv| options.selector.matches(kind, kv));
        Ok(ListPage {
            items,
            revision: page.revision,
            continue_token: None,
            remaining: None,
        })
    }
}

#[cfg(test)]
mod tests;
