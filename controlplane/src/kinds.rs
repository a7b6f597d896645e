//! The kinds that the API serves. Adding one is one file: names, scope, defaults, validation, immutable
//! fields, printer columns, status split. Pure: no I/O, no clock. What users define themselves is in [`custom`].

pub(crate) mod access;
pub(crate) mod admission;
pub(crate) mod api_service;
pub(crate) mod certificate_signing_request;
mod config_map;
mod controller_revision;
mod cron_job;
pub(crate) mod custom;
pub(crate) mod custom_resource_definition;
mod daemon_set;
mod deployment;
mod endpoint_slice;
mod endpoints;
mod errors;
pub(crate) mod event;
pub(crate) mod flow_control;
pub(crate) mod horizontal_pod_autoscaler;
pub(crate) mod int_or_percent;
mod job;
mod lease;
pub(crate) mod limit_range;
pub(crate) mod meta;
mod names;
mod namespace;
pub(crate) mod networking;
pub(crate) mod node;
pub(crate) mod pod;
mod pod_disruption_budget;
mod pod_template;
pub(crate) mod priority_class;
pub(crate) mod quantity;
pub(crate) mod rbac;
mod replica_set;
mod replication_controller;
pub(crate) mod resource_quota;
mod runtime_class;
pub(crate) mod schedule;
mod secret;
pub(crate) mod selector;
mod served_version;
mod service;
mod service_account;
mod stateful_set;
pub(crate) mod storage;
mod table;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod time;
mod webhook_client;

use std::borrow::Cow;
use std::sync::Arc;

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

/// The identity of a kind in one version; one static per file in `kinds/`. Those of custom resources borrow
/// from the [`KindRef`] that they are asked of, so that they go when their definition goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind<'a> {
    /// "" for core.
    pub(crate) group: &'a str,
    pub(crate) version: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) plural: &'a str,
    pub(crate) singular: &'a str,
    /// Of a custom resource: see [`Strategy::custom`].
    pub(crate) short_names: &'a [&'a str],
    pub(crate) categories: &'a [&'a str],
    pub(crate) scope: Scope,
    /// Definition name in the schema, such as `io.k8s.api.core.v1.Pod`.
    pub(crate) definition: &'a str,
    /// Subresources it has: "status", "scale", "log", "binding", "eviction", "token"…
    pub(crate) subresources: &'a [&'static str],
    /// Name check of `metadata.name`.
    pub(crate) name_rule: NameRule,
    pub(crate) strategy: &'a dyn Strategy,
    /// Adds the type to the JSON schema.
    pub(crate) register: fn(&mut SchemaGenerator),
}

impl Column {
    fn definition(&self) -> Value {
        serde_json::json!({
            "name": self.name,
            "type": self.kind,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        })
    }
}

impl Kind<'_> {
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

    /// Whether deletion answers with the object that was deleted instead of a Status
    /// (`ReturnDeletedObject` of Kubernetes' registries; clients with types read no other).
    pub(crate) fn is_answer_of_its_deletion(&self) -> bool {
        const CORE: &[&str] = &[
            "persistentvolumeclaims",
            "persistentvolumes",
            "pods",
            "podtemplates",
            "resourcequotas",
            "serviceaccounts",
            "services",
        ];
        const STORAGE: &[&str] = &[
            "csidrivers",
            "csinodes",
            "storageclasses",
            "volumeattachments",
            "volumeattributesclasses",
        ];
        match self.group {
            "" => CORE.contains(&self.plural),
            "storage.k8s.io" => STORAGE.contains(&self.plural),
            _ => false,
        }
    }

    pub(crate) fn has_subresource(&self, name: &str) -> bool {
        self.subresources.contains(&name)
    }

    /// Whether it is a version of a custom resource.
    pub(crate) fn is_custom(&self) -> bool {
        self.strategy.custom().is_some()
    }

    /// Name of the list kind.
    pub(crate) fn list_kind(&self) -> String {
        match self.strategy.custom() {
            Some(version) => version.common.list_kind.clone(),
            None => format!("{}List", self.kind),
        }
    }

    pub(crate) fn all_short_names(&self) -> Vec<&str> {
        match self.strategy.custom() {
            Some(version) => version
                .common
                .short_names
                .iter()
                .map(String::as_str)
                .collect(),
            None => self.short_names.to_vec(),
        }
    }

    pub(crate) fn all_categories(&self) -> Vec<&str> {
        match self.strategy.custom() {
            Some(version) => version
                .common
                .categories
                .iter()
                .map(String::as_str)
                .collect(),
            None => self.categories.to_vec(),
        }
    }
}

/// A kind that can be kept: one that is built in, or a version of a custom resource, which is there as long as
/// somebody holds it.
#[derive(Debug, Clone)]
pub(crate) enum KindRef {
    BuiltIn(&'static Kind<'static>),
    Custom(Arc<custom::Version>),
}

impl KindRef {
    pub(crate) fn get(&self) -> Kind<'_> {
        match self {
            Self::BuiltIn(kind) => **kind,
            Self::Custom(version) => version.kind(),
        }
    }
}

impl From<&'static Kind<'static>> for KindRef {
    fn from(kind: &'static Kind<'static>) -> Self {
        Self::BuiltIn(kind)
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

    /// [`Strategy::columns`] as a Table has them. Custom resources make their own.
    fn column_definitions(&self) -> Vec<Value> {
        self.columns().iter().map(Column::definition).collect()
    }

    /// [`Strategy::selectable`], where the names need not be known beforehand.
    fn selectable_fields(&self, object: &Value) -> Vec<(Cow<'static, str>, String)> {
        let fields = self.selectable(object).into_iter();
        fields
            .map(|(name, value)| (Cow::Borrowed(name), value))
            .collect()
    }

    /// A further served version of a kind names the kind that is stored, and how one becomes the other
    /// ([`Strategy::to_stored`], [`Strategy::to_served`]); everything else is then the stored kind's.
    fn stored(&self) -> Option<&'static Kind<'static>> {
        None
    }

    /// What the stored version calls a field that a selector names; `None` where this version has none of that name.
    fn stored_field(&self, field: &str) -> Option<String> {
        Some(field.to_owned())
    }

    fn to_stored(&self, object: Value) -> Value {
        object
    }

    fn to_served(&self, object: Value) -> Value {
        object
    }

    /// When a deletion begins, after its time was set: finalizers and conditions that go with it.
    fn prepare_delete(&self, _object: &mut Value) {}

    /// The version of a custom resource that this is, if it is one.
    fn custom(&self) -> Option<&custom::Version> {
        None
    }

    /// What becomes of dependents when a deletion does not say: `Background` or `Orphan`.
    fn default_propagation(&self) -> &'static str {
        "Background"
    }

    /// Grace period that a deletion without one gets; `None` deletes at once (all kinds but Pod).
    fn default_grace_period(&self, _object: &Value) -> Option<i64> {
        None
    }
}

static ALL: &[&Kind<'static>] = &[
    &config_map::KIND,
    &endpoints::KIND,
    &event::KIND,
    &limit_range::KIND,
    &namespace::KIND,
    &node::KIND,
    &storage::persistent_volume_claim::KIND,
    &storage::persistent_volume::KIND,
    &pod::KIND,
    &resource_quota::KIND,
    &pod_template::KIND,
    &replication_controller::KIND,
    &secret::KIND,
    &service_account::KIND,
    &service::KIND,
    &event::EVENTS_KIND,
    &controller_revision::KIND,
    &daemon_set::KIND,
    &deployment::KIND,
    &replica_set::KIND,
    &stateful_set::KIND,
    &horizontal_pod_autoscaler::KIND,
    &horizontal_pod_autoscaler::V1_KIND,
    &certificate_signing_request::KIND,
    &cron_job::KIND,
    &cron_job::BETA,
    &job::KIND,
    &lease::KIND,
    &endpoint_slice::KIND,
    &endpoint_slice::BETA,
    &flow_control::schema::KIND,
    &flow_control::level::KIND,
    &networking::ingress::KIND,
    &networking::ingress_class::KIND,
    &networking::ip_address::KIND,
    &networking::network_policy::KIND,
    &networking::service_cidr::KIND,
    &runtime_class::KIND,
    &pod_disruption_budget::KIND,
    &pod_disruption_budget::BETA,
    &rbac::cluster_role::KIND,
    &rbac::cluster_role_binding::KIND,
    &rbac::role::KIND,
    &rbac::role_binding::KIND,
    &admission::mutating_policy::KIND,
    &admission::mutating_policy::BINDING,
    &admission::webhooks::MUTATING,
    &admission::validating_policy::KIND,
    &admission::validating_policy::BINDING,
    &admission::webhooks::VALIDATING,
    &custom_resource_definition::KIND,
    &api_service::KIND,
    &priority_class::KIND,
    &storage::csi_driver::KIND,
    &storage::csi_node::KIND,
    &storage::csi_storage_capacity::KIND,
    &storage::storage_class::KIND,
    &storage::volume_attachment::KIND,
    &storage::volume_attributes_class::KIND,
];

/// Every kind, in the order of discovery.
pub(crate) fn all() -> &'static [&'static Kind<'static>] {
    ALL
}

#[cfg(test)]
/// Groups with their preferred version, in the order of discovery; core is `("", "v1")`.
pub(crate) fn groups() -> &'static [(&'static str, &'static str)] {
    &[
        ("", "v1"),
        ("events.k8s.io", "v1"),
        ("apps", "v1"),
        ("autoscaling", "v2"),
        ("autoscaling", "v1"),
        (certificate_signing_request::GROUP, "v1"),
        ("batch", "v1"),
        ("batch", "v1beta1"),
        ("coordination.k8s.io", "v1"),
        ("discovery.k8s.io", "v1"),
        ("discovery.k8s.io", "v1beta1"),
        (flow_control::GROUP, "v1"),
        (networking::GROUP, "v1"),
        (admission::GROUP, "v1"),
        ("apiextensions.k8s.io", "v1"),
        ("apiregistration.k8s.io", "v1"),
        ("node.k8s.io", "v1"),
        ("policy", "v1"),
        ("policy", "v1beta1"),
        (rbac::GROUP, "v1"),
        ("scheduling.k8s.io", "v1"),
        ("storage.k8s.io", "v1"),
    ]
}

pub(crate) fn by_plural(
    group: &str,
    version: &str,
    plural: &str,
) -> Option<&'static Kind<'static>> {
    all()
        .iter()
        .find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
        .copied()
}

pub(crate) fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind<'static>> {
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
    generator.subschema_for::<core::ComponentStatus>();
    generator.subschema_for::<policy::Eviction>();
    generator.subschema_for::<meta::DeleteOptions>();
    generator.subschema_for::<meta::ListMeta>();
    generator.subschema_for::<meta::Patch>();
    generator.subschema_for::<meta::Status>();
}
