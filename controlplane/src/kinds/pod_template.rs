//! PodTemplate (core/v1): a template by itself, which others may copy.

use serde_json::Value;

use super::access::{at, list, text};
use super::errors::Errors;
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, pod, table};

pub(super) static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "PodTemplate",
    plural: "podtemplates",
    singular: "podtemplate",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.core.v1.PodTemplate",
    subresources: &[],
    name_rule: NameRule::DnsSubdomain,
    strategy: &PodTemplate,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::core::v1::PodTemplate>();
    },
};

#[derive(Debug)]
struct PodTemplate;

impl Strategy for PodTemplate {
    fn default(&self, object: &mut Value) {
        pod::default_template_at(object, &["template"]);
    }

    fn prepare_create(&self, object: &mut Value) {
        meta::set_generation(object, None);
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, _subresource: &str) {
        let before = super::access::integer(old, &["metadata", "generation"]).unwrap_or(0);
        let changed = !super::access::same(object.get("template"), old.get("template"));
        super::access::object_mut(object, &["metadata"])
            .insert("generation".into(), (before + i64::from(changed)).into());
    }

    fn validate(
        &self,
        object: &Value,
        _old: Option<&Value>,
        _subresource: &str,
    ) -> Vec<FieldError> {
        let mut errors = Errors::new();
        match at(object, &["template"]) {
            None => errors.required("template.spec.containers", ""),
            Some(template) => pod::validate_template(template, "template", &mut errors),
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Containers", "string", "Names of the containers."),
            table::column("Images", "string", "Images of the containers."),
            table::column("Pod Labels", "string", "Labels of the pods."),
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, _now: i64) -> Vec<Value> {
        let containers = list(object, &["template", "spec", "containers"]);
        let join = |field: &str| {
            let all: Vec<&str> = containers.iter().map(|one| text(one, &[field])).collect();
            Value::from(all.join(","))
        };
        vec![
            table::name(object),
            join("name"),
            join("image"),
            table::labels(object, &["template", "metadata", "labels"]),
        ]
    }
}
