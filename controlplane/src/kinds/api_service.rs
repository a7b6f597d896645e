//! APIService (apiregistration.k8s.io/v1). The server's own group versions are local and available; requests for those
//! that name a Service are passed on to it.

use serde_json::{Value, json};

use super::access::{at, flag, integer, list, object_mut, text};
use super::errors::Errors;
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, names, table};

pub(crate) static KIND: Kind = Kind {
    group: "apiregistration.k8s.io",
    version: "v1",
    kind: "APIService",
    plural: "apiservices",
    singular: "apiservice",
    short_names: &[],
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    definition: "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService",
    subresources: &["status"],
    name_rule: NameRule::PathSegment,
    strategy: &ApiService,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService>();
    },
};

#[derive(Debug)]
struct ApiService;

/// The APIService of a group version that this server answers itself.
pub(crate) fn local(group: &str, version: &str) -> Value {
    let name = format!("{version}.{group}");
    let mut spec = json!({"version": version, "groupPriorityMinimum": if group.is_empty() { 18000 } else { 17000 },
        "versionPriority": 15});
    if !group.is_empty() {
        spec["group"] = group.into();
    }
    json!({
        "metadata": {"name": name, "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"}},
        "spec": spec,
    })
}

fn is_local(object: &Value) -> bool {
    at(object, &["spec", "service"]).is_none()
}

impl Strategy for ApiService {
    fn default(&self, object: &mut Value) {
        if let Some(service) = object
            .pointer_mut("/spec/service")
            .and_then(Value::as_object_mut)
        {
            service.entry("port").or_insert(443.into());
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        let since = text(object, &["metadata", "creationTimestamp"]).to_owned();
        let local = json!({"conditions": [{
            "type": "Available", "status": "True", "reason": "Local",
            "message": "Local APIServices are always available",
            "lastTransitionTime": since,
        }]});
        // Whether another server answers, a controller finds out.
        let status = if is_local(object) { local } else { json!({}) };
        object_mut(object, &[]).insert("status".into(), status);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        if subresource == "status" {
            meta::keep_all_but_status(object, old);
        } else {
            meta::keep_status(object, old);
        }
    }

    fn validate(
        &self,
        object: &Value,
        _old: Option<&Value>,
        _subresource: &str,
    ) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let spec = &object["spec"];
        let (group, version) = (text(spec, &["group"]), text(spec, &["version"]));
        let name = text(object, &["metadata", "name"]);
        let wanted = format!("{version}.{group}");
        if name != wanted {
            errors.invalid(
                "metadata.name",
                name,
                &format!("must be `spec.version+\".\"+spec.group`: {wanted:?}"),
            );
        }
        if version.is_empty() {
            errors.required("spec.version", "");
        }
        for (field, most) in [("groupPriorityMinimum", 20000), ("versionPriority", 1000)] {
            let given = integer(spec, &[field]).unwrap_or(0);
            if given <= 0 || given > most {
                errors.invalid(
                    format!("spec.{field}"),
                    given,
                    &format!("must be positive and less than {most}"),
                );
            }
        }
        if let Some(service) = at(spec, &["service"]) {
            for field in ["namespace", "name"] {
                if text(service, &[field]).is_empty() {
                    errors.required(format!("spec.service.{field}"), "");
                }
            }
            let port = integer(service, &["port"]).unwrap_or(0);
            for message in names::port_number(port) {
                let message = format!("port is not valid: {message}");
                errors.invalid("spec.service.port", port, &message);
            }
            let bundle = !text(spec, &["caBundle"]).is_empty();
            if flag(spec, &["insecureSkipTLSVerify"]) && bundle {
                errors.invalid(
                    "spec.insecureSkipTLSVerify",
                    true,
                    "may not be true if caBundle is present",
                );
            }
        } else {
            if !text(spec, &["caBundle"]).is_empty() {
                errors.invalid(
                    "spec.caBundle",
                    format!("{} bytes", text(spec, &["caBundle"]).len() / 4 * 3),
                    "local APIServices may not have a caBundle",
                );
            }
            if flag(spec, &["insecureSkipTLSVerify"]) {
                errors.invalid(
                    "spec.insecureSkipTLSVerify",
                    true,
                    "local APIServices may not have insecureSkipTLSVerify",
                );
            }
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Service", "string", "The Service that answers, or Local."),
            table::column("Available", "string", "Whether it answers."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let service = match at(object, &["spec", "service"]) {
            None => "Local".to_owned(),
            Some(service) => format!(
                "{}/{}",
                text(service, &["namespace"]),
                text(service, &["name"])
            ),
        };
        let conditions = list(object, &["status", "conditions"]);
        let available = conditions
            .iter()
            .find(|condition| text(condition, &["type"]) == "Available")
            .map_or_else(
                || "Unknown".to_owned(),
                |condition| match text(condition, &["status"]) {
                    "True" => "True".to_owned(),
                    status => format!("{status} ({})", text(condition, &["reason"])),
                },
            );
        vec![
            table::name(object),
            service.into(),
            available.into(),
            table::age(object, now),
        ]
    }
}
