//! What expressions of webhooks and policies can refer to: the types of `request`, `object`, `variables` and so on.

use std::sync::Arc;

use serde_json::Value;

use super::check::Visible;
use super::types::{Declared, Type};
use super::{object, plain};

const AUTHORIZER: Type = Type::Opaque("kubernetes.authorization.Authorizer");
const RESOURCE: Type = Type::Opaque("kubernetes.authorization.ResourceCheck");

/// What is known of the parts of a write; `Type::Dyn` is what nothing is known of.
#[derive(Debug, Clone)]
pub(crate) struct About {
    pub(crate) object: Type,
    /// `None` for expressions without parameters.
    pub(crate) params: Option<Type>,
    pub(crate) asks_authorizer: bool,
}

impl Default for About {
    fn default() -> Self {
        Self {
            object: Type::Dyn,
            params: None,
            asks_authorizer: true,
        }
    }
}

/// The variables of an expression about a write.
pub(crate) fn scope(about: &About) -> Visible {
    let mut scope = Visible::new([
        ("object", about.object.clone()),
        ("oldObject", about.object.clone()),
        ("request", request()),
        ("namespaceObject", namespace()),
    ]);
    if let Some(params) = &about.params {
        scope.set("params", params.clone());
    }
    if about.asks_authorizer {
        scope.set("authorizer", AUTHORIZER);
        scope.set("authorizer.requestResource", RESOURCE);
    }
    scope
}

/// The type of `variables`, of which these are there.
pub(crate) fn variables(defined: &[(String, Type)]) -> Type {
    let fields = defined
        .iter()
        .map(|(name, kind)| (name.clone(), Declared::plain(kind.clone())));
    Declared::object("kubernetes.variables", fields, 2).kind()
}

fn text() -> Arc<Declared> {
    Declared::plain(Type::String)
}

fn texts() -> Arc<Declared> {
    Declared::list(text(), 0)
}

fn fields<'a>(
    name: &str,
    all: impl IntoIterator<Item = (&'a str, Arc<Declared>)>,
) -> Arc<Declared> {
    let all = all.into_iter().map(|(name, kind)| (name.to_owned(), kind));
    Declared::object(name, all, 2)
}

fn request() -> Type {
    let kind = || {
        fields(
            "kubernetes.GroupVersionKind",
            ["group", "version", "kind"].map(|name| (name, text())),
        )
    };
    let resource = || {
        fields(
            "kubernetes.GroupVersionResource",
            ["group", "version", "resource"].map(|name| (name, text())),
        )
    };
    let user = fields(
        "kubernetes.UserInfo",
        [
            ("username", text()),
            ("uid", text()),
            ("groups", texts()),
            ("extra", Declared::map(texts(), 0)),
        ],
    );
    let request = fields(
        "kubernetes.AdmissionRequest",
        [
            ("kind", kind()),
            ("resource", resource()),
            ("subResource", text()),
            ("requestKind", kind()),
            ("requestResource", resource()),
            ("requestSubResource", text()),
            ("name", text()),
            ("namespace", text()),
            ("operation", text()),
            ("userInfo", user),
            ("dryRun", Declared::plain(Type::Bool)),
            ("options", Declared::plain(Type::Dyn)),
        ],
    );
    request.kind()
}

fn namespace() -> Type {
    let time = || Declared::plain(Type::Timestamp);
    let whole = || Declared::plain(Type::Int);
    let labels = || Declared::map(text(), 0);
    let metadata = fields(
        "kubernetes.NamespaceMetadata",
        [
            ("name", text()),
            ("generateName", text()),
            ("namespace", text()),
            ("labels", labels()),
            ("annotations", labels()),
            ("UID", text()),
            ("creationTimestamp", time()),
            ("deletionGracePeriodSeconds", whole()),
            ("deletionTimestamp", time()),
            ("generation", whole()),
            ("resourceVersion", text()),
            ("finalizers", texts()),
        ],
    );
    let condition = fields(
        "kubernetes.NamespaceCondition",
        [
            ("status", text()),
            ("type", text()),
            ("lastTransitionTime", time()),
            ("message", text()),
            ("reason", text()),
        ],
    );
    let status = [
        ("conditions", Declared::list(condition, 0)),
        ("phase", text()),
    ];
    let all = [
        ("metadata", metadata),
        (
            "spec",
            fields("kubernetes.NamespaceSpec", [("finalizers", texts())]),
        ),
        ("status", fields("kubernetes.NamespaceStatus", status)),
    ];
    fields("kubernetes.Namespace", all).kind()
}

/// A Namespace as the value of `namespaceObject`, whose times are times.
pub(crate) fn namespace_value(namespace: &Value) -> cel::Value {
    timed(namespace)
}

const TIMES: &[&str] = &[
    "creationTimestamp",
    "deletionTimestamp",
    "lastTransitionTime",
];

fn timed(value: &Value) -> cel::Value {
    match value {
        Value::Object(map) => object(map.iter().map(|(name, value)| {
            let time = value
                .as_str()
                .filter(|_| TIMES.contains(&name.as_str()))
                .and_then(|text| super::formatted(text, "date-time"));
            // Expressions know it by this name.
            let name = if name == "uid" { "UID" } else { name };
            (name.to_owned(), time.unwrap_or_else(|| timed(value)))
        })),
        Value::Array(list) => cel::Value::List(Arc::new(list.iter().map(timed).collect())),
        other => plain(other),
    }
}
