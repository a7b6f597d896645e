//! VolumeAttachment (storage.k8s.io/v1).

use serde_json::Value;

use super::super::access::{at, flag, text};
use super::super::errors::Errors;
use super::super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, names, table};
use super::{GROUP, validate_driver_name};

pub(crate) static KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "VolumeAttachment",
    plural: "volumeattachments",
    singular: "volumeattachment",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    definition: "io.k8s.api.storage.v1.VolumeAttachment",
    subresources: &["status"],
    name_rule: NameRule::DnsSubdomain,
    strategy: &VolumeAttachment,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::storage::v1::VolumeAttachment>();
    },
};

#[derive(Debug)]
struct VolumeAttachment;

impl Strategy for VolumeAttachment {
    fn default(&self, _object: &mut Value) {}

    fn prepare_create(&self, object: &mut Value) {
        if let Some(fields) = object.as_object_mut() {
            fields.insert("status".into(), serde_json::json!({"attached": false}));
        }
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        if subresource == "status" {
            meta::keep_all_but_status(object, old);
        } else {
            meta::keep_status(object, old);
        }
    }

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        validate_driver_name(
            text(object, &["spec", "attacher"]),
            "spec.attacher",
            &mut errors,
        );
        let volume = text(object, &["spec", "source", "persistentVolumeName"]);
        let inline = at(object, &["spec", "source", "inlineVolumeSpec"]).is_some();
        let named = at(object, &["spec", "source", "persistentVolumeName"]).is_some();
        match (!named, inline) {
            (true, false) => errors.required(
                "spec.source",
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            ),
            (false, true) => errors.forbidden(
                "spec.source",
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            ),
            (false, false) => {
                const VOLUME: &str = "spec.source.persistentVolumeName";
                if volume.is_empty() {
                    errors.required(VOLUME, "must specify non empty persistentVolumeName");
                }
                errors.format(VOLUME, volume, names::dns_subdomain(volume));
            }
            (true, true) => {}
        }
        let node = text(object, &["spec", "nodeName"]);
        errors.format("spec.nodeName", node, names::dns_subdomain(node));
        if let Some(old) = old {
            errors.immutable("spec", at(object, &["spec"]), at(old, &["spec"]));
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            super::NAME,
            table::column("Attacher", "string", "The driver that attaches."),
            table::column("PV", "string", "The volume."),
            table::column("Node", "string", "Where it is attached."),
            table::column("Attached", "boolean", "Whether it is attached."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![
            table::name(object),
            text(object, &["spec", "attacher"]).into(),
            text(object, &["spec", "source", "persistentVolumeName"]).into(),
            text(object, &["spec", "nodeName"]).into(),
            flag(object, &["status", "attached"]).into(),
            table::age(object, now),
        ]
    }
}
