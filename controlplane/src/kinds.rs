//! The kinds that the API serves. Adding one is one file: names, scope, defaults, validation, immutable
//! fields, printer columns, status split. Pure: no I/O, no clock.

pub(crate) mod access;
pub(crate) mod certificate_signing_request;
mod config_map;
mod deployment;
mod endpoint_slice;
mod endpoints;
mod errors;
pub(crate) mod event;
pub(crate) mod flow_control;
pub(crate) mod int_or_percent;
mod lease;
pub(crate) mod meta;
mod names;
mod namespace;
mod node;
pub(crate) mod pod;
pub(crate) mod quantity;
pub(crate) mod rbac;
mod replica_set;
mod secret;
pub(crate) mod selector;
mod service;
mod service_account;
mod table;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod time;

use schemars::SchemaGenerator;
use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Cluster,
    Namespaced,
}

/// A column of `kubectl get`, as in `meta.k8s.io/v1` TableColumnDefinition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    /// "string", "integer", "date"…
    pub(crate) kind: &'static str,
    /// "name" for the name column, else empty.
    pub(crate) format: &'static str,
    pub(crate) description: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub(crate) priority: i32,
}

/// One problem in an object, as Kubernetes writes it in `Status.details.causes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldError {
    /// `spec.ports[0].port`
    pub(crate) field: String,
    pub(crate) cause: Cause,
    /// The whole sentence after the field: `Invalid value: 0: must be between 1 and 65535, inclusive`.
    pub(crate) message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Required,
    Invalid,
    Duplicate,
    NotFound,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
}

/// The identity of a kind; one static per file in `kinds/`.
#[derive(Debug)]
pub(crate) struct Kind {
    /// "" for core.
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) short_names: &'static [&'static str],
    pub(crate) categories: &'static [&'static str],
    pub(crate) scope: Scope,
    /// Definition name in the schema, such as `io.k8s.api.core.v1.Pod`.
    pub(crate) definition: &'static str,
    /// Subresources it has: "status", "scale", "log", "binding", "eviction", "token"…
    pub(crate) subresources: &'static [&'static str],
    /// Name check of `metadata.name`.
    pub(crate) name_rule: NameRule,
    pub(crate) strategy: &'static dyn Strategy,
    /// Adds the type to the JSON schema.
    pub(crate) register: fn(&mut SchemaGenerator),
}

impl Kind {
    #[cfg(test)]
    /// `v1`, `apps/v1`
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    pub(crate) fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Whether one request may delete all objects of a place. Not all namespaces with all that is in them.
    pub(crate) fn deletes_collections(&self) -> bool {
        (self.group, self.kind) != ("", "Namespace")
    }

    pub(crate) fn has_subresource(&self, name: &str) -> bool {
        self.subresources.contains(&name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameRule {
    DnsSubdomain,
    DnsLabel,
    /// RFC 1035 label: starts with a letter (Services).
    DnsLabel1035,
    /// RBAC names: any path segment.
    PathSegment,
}

/// What differs between kinds on the path of a write. Metadata is handled generically; these see the whole
/// object. All are pure.
pub(crate) trait Strategy: std::fmt::Debug + Sync {
    /// Fills in the defaults that Kubernetes documents.
    fn default(&self, object: &mut Value);

    /// On create: drop what clients may not set (status), set initial values.
    fn prepare_create(&self, _object: &mut Value) {}

    /// On update of the main resource: keep the old status, bump `metadata.generation` when the spec
    /// changed, and so on. On update of a subresource only that part may change.
    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str);

    /// `old` is there on an update: immutable fields are checked against it.
    fn validate(&self, object: &Value, old: Option<&Value>, subresource: &str) -> Vec<FieldError>;

    /// Warnings for the client (`Warning:` header, 299).
    fn warnings(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    fn columns(&self) -> &'static [Column];

    /// Cells in the order of [`Strategy::columns`]; `now` is seconds since the epoch, for ages.
    fn row(&self, object: &Value, now: i64) -> Vec<Value>;

    /// Fields that field selectors may name besides `metadata.name` and `metadata.namespace`.
    fn selectable(&self, _object: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Grace period that a deletion without one gets; `None` deletes at once (all kinds but Pod).
    fn default_grace_period(&self, _object: &Value) -> Option<i64> {
        None
    }
}

static ALL: &[&Kind] = &[
    &config_map::KIND,
    &endpoints::KIND,
    &event::KIND,
    &namespace::KIND,
    &node::KIND,
    &pod::KIND,
    &secret::KIND,
    &service_account::KIND,
    &service::KIND,
    &event::EVENTS_KIND,
    &deployment::KIND,
    &replica_set::KIND,
    &certificate_signing_request::KIND,
    &lease::KIND,
    &endpoint_slice::KIND,
    &flow_control::schema::KIND,
    &flow_control::level::KIND,
    &rbac::cluster_role::KIND,
    &rbac::cluster_role_binding::KIND,
    &rbac::role::KIND,
    &rbac::role_binding::KIND,
];

/// Every kind, in the order of discovery.
pub(crate) fn all() -> &'static [&'static Kind] {
    ALL
}

#[cfg(test)]
/// Groups with their preferred version, in the order of discovery; core is `("", "v1")`.
pub(crate) fn groups() -> &'static [(&'static str, &'static str)] {
    &[
        ("", "v1"),
        ("events.k8s.io", "v1"),
        ("apps", "v1"),
        (certificate_signing_request::GROUP, "v1"),
        ("coordination.k8s.io", "v1"),
        ("discovery.k8s.io", "v1"),
        (flow_control::GROUP, "v1"),
        (rbac::GROUP, "v1"),
    ]
}

pub(crate) fn by_plural(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    all()
        .iter()
        .find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
        .copied()
}

pub(crate) fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    all()
        .iter()
        .find(|known| known.group == group && known.version == version && known.kind == kind)
        .copied()
}

/// Adds to the JSON schema what requests and answers use besides the stored kinds.
pub(crate) fn register_common(generator: &mut SchemaGenerator) {
    use k8s_openapi::api::{authentication::v1 as authn, authorization::v1 as authz};
    use k8s_openapi::api::{
        autoscaling::v1 as autoscaling, core::v1 as core, policy::v1 as policy,
    };
    use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
    generator.subschema_for::<authn::SelfSubjectReview>();
    generator.subschema_for::<authn::TokenRequest>();
    generator.subschema_for::<authn::TokenReview>();
    generator.subschema_for::<authz::LocalSubjectAccessReview>();
    generator.subschema_for::<authz::SelfSubjectAccessReview>();
    generator.subschema_for::<authz::SelfSubjectRulesReview>();
    generator.subschema_for::<authz::SubjectAccessReview>();
    generator.subschema_for::<autoscaling::Scale>();
    generator.subschema_for::<core::Binding>();
    generator.subschema_for::<policy::Eviction>();
    generator.subschema_for::<meta::DeleteOptions>();
    generator.subschema_for::<meta::ListMeta>();
    generator.subschema_for::<meta::Patch>();
    generator.subschema_for::<meta::Status>();
}
