//! Node (core/v1).

use std::collections::{BTreeSet, HashSet};

use serde_json::Value;

use super::access::{at, flag, list, map, object_mut, same, strings, text};
use super::errors::Errors;
use super::quantity::Quantity;
use super::table;
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, names};

pub(super) static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    categories: &[],
    scope: Scope::Cluster,
    definition: "io.k8s.api.core.v1.Node",
    subresources: &["proxy", "status"],
    name_rule: NameRule::DnsSubdomain,
    strategy: &Node,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::core::v1::Node>();
    },
};

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";

/// Whether a resource is not Kubernetes' own: nobody but who advertises it knows how much there is.
pub(crate) fn is_extended(resource: &str) -> bool {
    resource.contains('/')
        && !resource
            .split('/')
            .next()
            .is_some_and(|domain| domain == "kubernetes.io" || domain.ends_with(".kubernetes.io"))
        && !resource.starts_with("requests.")
}

/// Extended resources that somebody adds to the capacity can be allocated; those that are taken from it cannot any more.
/// An amount that is advertised with its own allocatable part (device plugins) stays as it is said.
fn allocate_extended(object: &mut Value, old: &Value) {
    let amounts = |object: &Value, field: &str| -> serde_json::Map<String, Value> {
        let found = map(object, &["status", field]).cloned().unwrap_or_default();
        found
            .into_iter()
            .filter(|(name, _)| is_extended(name))
            .collect()
    };
    let capacity = amounts(object, "capacity");
    let given = amounts(object, "allocatable");
    let (old_capacity, old_given) = (amounts(old, "capacity"), amounts(old, "allocatable"));
    for (name, amount) in &capacity {
        let follows = !given.contains_key(name)
            || (given.get(name) == old_given.get(name) && old_capacity.get(name) != Some(amount));
        if follows {
            object_mut(object, &["status", "allocatable"]).insert(name.clone(), amount.clone());
        }
    }
    for name in given.keys().filter(|name| !capacity.contains_key(*name)) {
        object_mut(object, &["status", "allocatable"]).remove(name);
    }
}

#[derive(Debug)]
struct Node;

impl Strategy for Node {
    fn default(&self, object: &mut Value) {
        // What can be allocated is the capacity until somebody reserves some of it.
        if at(object, &["status", "allocatable"]).is_none()
            && let Some(capacity) = at(object, &["status", "capacity"]).cloned()
        {
            object_mut(object, &["status"]).insert("allocatable".into(), capacity);
        }
        let cidr = text(object, &["spec", "podCIDR"]).to_owned();
        if !cidr.is_empty() && list(object, &["spec", "podCIDRs"]).is_empty() {
            object_mut(object, &["spec"]).insert("podCIDRs".into(), vec![cidr].into());
        }
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        if subresource == "status" {
            // Nodes report labels of themselves together with their status; only the spec stays.
            let spec = old.get("spec").cloned();
            let fields = object_mut(object, &[]);
            match spec {
                Some(spec) => fields.insert("spec".into(), spec),
                None => fields.remove("spec"),
            };
            allocate_extended(object, old);
        } else {
            meta::keep_status(object, old);
        }
    }

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        taints(object, &mut errors);
        let cidrs = list(object, &["spec", "podCIDRs"]);
        for (at, cidr) in cidrs.iter().enumerate() {
            let cidr = cidr.as_str().unwrap_or("");
            errors.format(&format!("spec.podCIDRs[{at}]"), cidr, names::cidr(cidr));
        }
        families(cidrs, &mut errors);
        let first = cidrs.first().and_then(Value::as_str).unwrap_or("");
        let one = text(object, &["spec", "podCIDR"]);
        if !one.is_empty() && one != first {
            errors.invalid(
                "spec.podCIDR",
                one,
                "must match the first entry of `podCIDRs`",
            );
        }
        for field in ["capacity", "allocatable"] {
            for (name, amount) in strings(object, &["status", field]) {
                if amount.parse::<Quantity>().is_ok_and(Quantity::is_negative) {
                    errors.invalid(
                        format!("status.{field}.{name}"),
                        amount,
                        "must be greater than or equal to 0",
                    );
                }
            }
        }
        let mut addresses = HashSet::new();
        for (index, address) in list(object, &["status", "addresses"]).iter().enumerate() {
            if !addresses.insert((text(address, &["type"]), text(address, &["address"]))) {
                errors.duplicate(format!("status.addresses[{index}]"), address.clone());
            }
        }
        if let Some(old) = old {
            update(object, old, &mut errors);
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Status", "string", "Whether it is ready."),
            table::column("Roles", "string", "Roles from its labels."),
            table::AGE,
            table::column("Version", "string", "Version of the node agent."),
            table::wide("Internal-IP", "string", "First address inside the cluster."),
            table::wide("External-IP", "string", "First address for the outside."),
            table::wide("OS-Image", "string", "Operating system."),
            table::wide("Kernel-Version", "string", "Kernel it runs."),
            table::wide("Container-Runtime", "string", "What runs its containers."),
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let address = |kind: &str| {
            list(object, &["status", "addresses"])
                .iter()
                .find(|address| text(address, &["type"]) == kind)
                .map_or("<none>", |address| text(address, &["address"]))
        };
        let info = |field: &str| match text(object, &["status", "nodeInfo", field]) {
            "" => "<unknown>",
            value => value,
        };
        vec![
            table::name(object),
            status(object).into(),
            roles(object).into(),
            table::age(object, now),
            text(object, &["status", "nodeInfo", "kubeletVersion"]).into(),
            address("InternalIP").into(),
            address("ExternalIP").into(),
            info("osImage").into(),
            info("kernelVersion").into(),
            info("containerRuntimeVersion").into(),
        ]
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![(
            "spec.unschedulable",
            flag(object, &["spec", "unschedulable"]).to_string(),
        )]
    }
}

fn status(object: &Value) -> String {
    let ready = list(object, &["status", "conditions"])
        .iter()
        .find(|condition| text(condition, &["type"]) == "Ready");
    let mut status = match ready {
        Some(condition) if text(condition, &["status"]) == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if flag(object, &["spec", "unschedulable"]) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn roles(object: &Value) -> String {
    let roles: BTreeSet<&str> = strings(object, &["metadata", "labels"])
        .filter_map(|(key, value)| match key.strip_prefix(ROLE_PREFIX) {
            Some(role) if !role.is_empty() => Some(role),
            _ if key == "kubernetes.io/role" && !value.is_empty() => Some(value),
            _ => None,
        })
        .collect();
    if roles.is_empty() {
        return "<none>".into();
    }
    roles.into_iter().collect::<Vec<_>>().join(",")
}

fn taints(object: &Value, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (index, taint) in list(object, &["spec", "taints"]).iter().enumerate() {
        let field = format!("spec.taints[{index}]");
        let key = text(taint, &["key"]);
        errors.format(&format!("{field}.key"), key, names::qualified_name(key));
        let value = text(taint, &["value"]);
        for message in names::label_value(value) {
            errors.invalid(format!("{field}.value"), value, &message);
        }
        let effect = text(taint, &["effect"]);
        taint_effect(effect, false, &format!("{field}.effect"), errors);
        if !seen.insert((key, effect)) {
            errors.duplicate(&*field, taint.clone());
        }
    }
}

/// An effect of a taint; tolerations may leave it out (`allow_empty`).
pub(super) fn taint_effect(effect: &str, allow_empty: bool, field: &str, errors: &mut Errors) {
    match effect {
        "" if allow_empty => {}
        "" => errors.required(field, ""),
        "NoSchedule" | "PreferNoSchedule" | "NoExecute" => {}
        other => errors.not_supported(
            field,
            other,
            &["NoSchedule", "PreferNoSchedule", "NoExecute"],
        ),
    }
}

/// At most one range of each family, none twice.
fn families(cidrs: &[Value], errors: &mut Errors) {
    let ranges = cidrs.iter().filter_map(Value::as_str);
    let ranges: Vec<(&str, bool)> = ranges.map(|range| (range, range.contains(':'))).collect();
    if ranges.len() > 2 || matches!(ranges[..], [(_, first), (_, second)] if first == second) {
        errors.invalid(
            "spec.podCIDRs",
            cidrs.to_vec(),
            "may specify no more than one CIDR for each IP family",
        );
    }
    let mut seen = std::collections::HashSet::new();
    for (at, (range, _)) in ranges.iter().enumerate() {
        if !seen.insert(range) {
            errors.duplicate(format!("spec.podCIDRs[{at}]"), *range);
        }
    }
}

fn update(object: &Value, old: &Value, errors: &mut Errors) {
    let before = list(old, &["spec", "podCIDRs"]);
    let after = list(object, &["spec", "podCIDRs"]);
    if !before.is_empty() && before != after {
        errors.forbidden(
            "spec.podCIDRs",
            "node updates may not change podCIDR except from \"\" to valid",
        );
    }
    let provider = text(old, &["spec", "providerID"]);
    if !provider.is_empty()
        && !same(
            at(object, &["spec", "providerID"]),
            at(old, &["spec", "providerID"]),
        )
    {
        errors.forbidden(
            "spec.providerID",
            "node updates may not change providerID except from \"\" to valid",
        );
    }
}
