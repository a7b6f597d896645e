//! Objects in the version that a request speaks, and in the one they are stored in. Built-in kinds know how their
//! versions differ; custom resources only have another `apiVersion`, or are converted by a webhook
//! ([`Convert`]).

use std::cmp::Reverse;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::Value;

use super::{ApiError, Registry};
use crate::kinds::access::text;
use crate::kinds::custom::{Conversion, Version};
use crate::kinds::{self, Kind, KindRef};

pub(crate) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Asks a definition's webhook.
pub(crate) trait Convert: std::fmt::Debug + Send + Sync {
    /// `objects` in the version `to` (`group/version`), in the same order.
    fn convert<'a>(
        &'a self,
        registry: &'a Registry,
        version: &'a Version,
        webhook: &'a Value,
        to: &'a str,
        objects: Vec<Value>,
    ) -> Boxed<'a, Result<Vec<Value>, ApiError>>;
}

impl KindRef {
    /// Whether stored objects are shown as they are.
    pub(crate) fn shows_what_is_stored(&self) -> bool {
        match self {
            Self::BuiltIn(kind) => kind.strategy.stored().is_none(),
            Self::Custom(version) => version.shows_what_is_stored(),
        }
    }
}

/// The kind whose rules hold for stored objects.
pub(crate) fn stored<'a>(kind: &'a Kind<'a>) -> &'a Kind<'a> {
    kind.strategy.stored().unwrap_or(kind)
}

impl Registry {
    /// The other versions in which objects of the kind are served.
    pub(crate) fn equivalents(&self, kind: &Kind<'_>) -> Vec<KindRef> {
        let is_other =
            |other: &Kind<'_>| (other.group, other.version) != (kind.group, kind.version);
        if kind.is_custom() {
            let defined = self.defined();
            let others = defined.served().filter(|version| {
                let other = version.kind();
                (other.group, other.plural) == (kind.group, kind.plural) && is_other(&other)
            });
            return others.cloned().map(KindRef::Custom).collect();
        }
        fn place<'a>(kind: &Kind<'a>) -> (&'a str, &'a str, &'a str) {
            (kind.group, kind.version, kind.plural)
        }
        let own = place(stored(kind));
        let others = kinds::all()
            .iter()
            .filter(|other| place(stored(other)) == own && is_other(other));
        others.map(|other| KindRef::BuiltIn(other)).collect()
    }

    /// Stored objects as `kind` shows them.
    pub(crate) async fn to_served(
        &self,
        kind: &Kind<'_>,
        objects: Vec<Value>,
    ) -> Result<Vec<Value>, ApiError> {
        let Some(version) = kind.strategy.custom() else {
            return Ok(objects
                .into_iter()
                .map(|object| kind.strategy.to_served(object))
                .collect());
        };
        let mut objects = self
            .convert(version, &version.api_version(), objects)
            .await?;
        for object in &mut objects {
            version.fill_defaults(object);
        }
        Ok(objects)
    }

    pub(crate) async fn one_to_served(
        &self,
        kind: &Kind<'_>,
        object: Value,
    ) -> Result<Value, ApiError> {
        let shown = self.to_served(kind, vec![object]).await?.into_iter().next();
        shown.ok_or_else(|| ApiError::internal("a conversion returned no object"))
    }

    /// An object in the version of `kind` as it is stored.
    pub(crate) async fn to_stored(
        &self,
        kind: &Kind<'_>,
        object: Value,
    ) -> Result<Value, ApiError> {
        let Some(version) = kind.strategy.custom() else {
            return Ok(kind.strategy.to_stored(object));
        };
        let to = format!(
            "{}/{}",
            version.common.group, version.common.storage_version
        );
        let stored = self
            .convert(version, &to, vec![object])
            .await?
            .into_iter()
            .next();
        stored.ok_or_else(|| ApiError::internal("a conversion returned no object"))
    }

    async fn convert(
        &self,
        version: &Version,
        to: &str,
        mut objects: Vec<Value>,
    ) -> Result<Vec<Value>, ApiError> {
        let is_other = |object: &Value| text(object, &["apiVersion"]) != to;
        if !objects.iter().any(is_other) {
            return Ok(objects);
        }
        match &version.common.conversion {
            Conversion::None => {
                for object in &mut objects {
                    object["apiVersion"] = to.into();
                }
                Ok(objects)
            }
            Conversion::Webhook(webhook) => {
                let converter = self.inner.converter.get().ok_or_else(|| {
                    ApiError::internal("conversion webhooks cannot be called yet")
                })?;
                let places: Vec<usize> = (0..objects.len())
                    .filter(|at| is_other(&objects[*at]))
                    .collect();
                let asked = places.iter().map(|at| objects[*at].clone()).collect();
                let converted = converter.convert(self, version, webhook, to, asked).await?;
                for (at, object) in places.into_iter().zip(converted) {
                    objects[at] = object;
                }
                Ok(objects)
            }
        }
    }

    pub(crate) fn set_converter(&self, converter: Arc<dyn Convert>) {
        // Set once, where the member is put together.
        let _ = self.inner.converter.set(converter);
    }
}

/// Order of versions: `v2` before `v1` before `v1beta2` before `v1alpha1` before others by name.
pub(crate) fn precedence(version: &str) -> (u8, Reverse<u32>, Reverse<u32>, String) {
    let parsed = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let major: u32 = rest[..digits].parse().ok()?;
        let tail = &rest[digits..];
        for (rank, stage) in [(1, "beta"), (2, "alpha")] {
            if let Some(minor) = tail.strip_prefix(stage) {
                return Some((
                    rank,
                    Reverse(major),
                    Reverse(minor.parse().ok()?),
                    String::new(),
                ));
            }
        }
        tail.is_empty()
            .then(|| (0, Reverse(major), Reverse(0), String::new()))
    };
    parsed().unwrap_or_else(|| (3, Reverse(0), Reverse(0), version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_preferred_as_kubernetes_does() {
        let mut all = vec![
            "foo",
            "v1alpha1",
            "v3beta1",
            "v1",
            "v10",
            "v2",
            "v1beta2",
            "v11alpha2",
            "bar",
        ];
        all.sort_by_key(|version| precedence(version));
        assert_eq!(
            all,
            [
                "v10",
                "v2",
                "v1",
                "v3beta1",
                "v1beta2",
                "v11alpha2",
                "v1alpha1",
                "bar",
                "foo"
            ]
        );
    }
}
