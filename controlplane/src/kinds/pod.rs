//! Pod (core/v1), and the pod templates of workloads.

mod admission;
mod affinity;
mod columns;
mod containers;
mod defaults;
mod environment;
mod label_keys;
mod probes;
mod qos;
mod resources;
mod security;
mod subresources;
mod sysctls;
mod update;
mod validate;
mod volumes;

use serde_json::{Value, json};

use super::access::{at, fill_absent, integer, list, object_mut, text};
use super::errors::Errors;
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, selector};

pub(super) static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.core.v1.Pod",
    // Only what is served: a subresource that nobody acts on would be a way to write past validation.
    subresources: &[
        "attach",
        "binding",
        "ephemeralcontainers",
        "eviction",
        "exec",
        "log",
        "portforward",
        "proxy",
        "resize",
        "status",
    ],
    name_rule: NameRule::DnsSubdomain,
    strategy: &Pod,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::core::v1::Pod>();
    },
};

#[derive(Debug)]
struct Pod;

impl Strategy for Pod {
    fn default(&self, object: &mut Value) {
        defaults::pod_spec(object, &["spec"]);
        admission::fill_in(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        let mut status = json!({"phase": "Pending", "qosClass": qos::class(object)});
        if !list(object, &["spec", "schedulingGates"]).is_empty() {
            status["conditions"] = json!([{
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }]);
        }
        object_mut(object, &[]).insert("status".into(), status);
        label_keys::merge(object);
        meta::set_generation(object, None);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        match subresource {
            "status" => {
                meta::keep_all_but_status_and_labels(object, old);
                // The class follows from the spec, whatever the reporter says.
                if let Some(class) = at(old, &["status", "qosClass"]).cloned() {
                    object_mut(object, &["status"]).insert("qosClass".into(), class);
                }
            }
            "ephemeralcontainers" | "resize" => {
                match subresource {
                    "resize" => subresources::keep_resources(object, old),
                    _ => subresources::keep_ephemeral(object, old),
                }
                defaults::pod_spec(object, &["spec"]);
                meta::set_generation(object, Some(old));
            }
            _ => {
                meta::keep_status(object, old);
                // What admission gave the pod stays where an update says nothing of it.
                for field in ["priority", "preemptionPolicy"] {
                    if let Some(given) = at(old, &["spec", field]).cloned() {
                        fill_absent(object_mut(object, &["spec"]), field, given);
                    }
                }
                meta::set_generation(object, Some(old));
            }
        }
    }

    fn validate(&self, object: &Value, old: Option<&Value>, subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        match old {
            None => validate::pod(object, &mut errors),
            Some(old) => match subresource {
                "" | "scale" => update::spec(object, old, &mut errors),
                "resize" => {
                    subresources::resize(object, old, &mut errors);
                    validate::spec(object, "spec", &mut errors);
                }
                "ephemeralcontainers" => {
                    validate::spec(object, "spec", &mut errors);
                    subresources::ephemeral(object, old, &mut errors);
                }
                "status" => update::status(object, old, &mut errors),
                _ => {}
            },
        }
        errors.into_vec()
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        validate::warnings(object, "spec")
    }

    fn columns(&self) -> &'static [Column] {
        columns::COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        columns::row(object, now)
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        let field = |path: &[&str]| text(object, path).to_owned();
        let pod_ip = list(object, &["status", "podIPs"]).first().map_or_else(
            || text(object, &["status", "podIP"]),
            |ip| text(ip, &["ip"]),
        );
        vec![
            ("spec.nodeName", field(&["spec", "nodeName"])),
            ("spec.restartPolicy", field(&["spec", "restartPolicy"])),
            ("spec.schedulerName", field(&["spec", "schedulerName"])),
            (
                "spec.serviceAccountName",
                field(&["spec", "serviceAccountName"]),
            ),
            (
                "spec.hostNetwork",
                super::access::flag(object, &["spec", "hostNetwork"]).to_string(),
            ),
            ("status.phase", field(&["status", "phase"])),
            ("status.podIP", pod_ip.to_owned()),
            // A name that Kubernetes knows and gives no value.
            ("status.podIPs", String::new()),
            (
                "status.nominatedNodeName",
                field(&["status", "nominatedNodeName"]),
            ),
        ]
    }

    fn default_grace_period(&self, object: &Value) -> Option<i64> {
        // What never was on a node, or has ended, has nothing to wait for.
        let phase = text(object, &["status", "phase"]);
        if text(object, &["spec", "nodeName"]).is_empty() || matches!(phase, "Succeeded" | "Failed")
        {
            return Some(0);
        }
        Some(integer(object, &["spec", "terminationGracePeriodSeconds"]).unwrap_or(30))
    }
}

/// Fills in the defaults of the pod template at `spec.template`.
pub(super) fn default_template(object: &mut Value) {
    default_template_at(object, &["spec", "template"]);
}

/// The same for a template at `path`.
pub(super) fn default_template_at(object: &mut Value, path: &[&str]) {
    if at(object, path).is_some() {
        defaults::pod_spec(object, &[path, &["spec"]].concat());
    }
}

/// Checks a folder of the node.
pub(super) fn host_path(source: &Value, field: &str, errors: &mut Errors) {
    volumes::host_path(source, field, errors);
}

/// The name of something that containers may ask for.
pub(super) fn validate_resource_name(name: &str, field: &str, errors: &mut Errors) {
    resources::resource_name(name, field, errors);
}

/// Whether pods may be limited to more of it than they are promised.
pub(super) fn may_be_overcommitted(name: &str) -> bool {
    resources::is_overcommitted(name)
}

/// Checks the node selector of a volume.
pub(super) fn validate_node_selector(selector: &Value, field: &str, errors: &mut Errors) {
    affinity::node_selector(selector, field, errors);
}

pub(super) fn validate_toleration(toleration: &Value, field: &str, errors: &mut Errors) {
    affinity::tolerate(toleration, field, errors);
}

/// Checks a pod template, `field` being its path.
pub(super) fn validate_template(template: &Value, field: &str, errors: &mut Errors) {
    selector::labels(
        at(template, &["metadata", "labels"]),
        &format!("{field}.metadata.labels"),
        errors,
    );
    if let Some(template_meta) = template.get("metadata") {
        meta::annotations(
            template_meta,
            &format!("{field}.metadata.annotations"),
            errors,
        );
    }
    validate::spec(template, &format!("{field}.spec"), errors);
    if !list(template, &["spec", "ephemeralContainers"]).is_empty() {
        errors.forbidden(
            format!("{field}.spec.ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        );
    }
}

/// Whether no container asks for anything.
pub(crate) fn is_best_effort(pod: &Value) -> bool {
    qos::class(pod) == "BestEffort"
}
