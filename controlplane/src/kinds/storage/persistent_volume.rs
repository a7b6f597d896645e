//! PersistentVolume (core/v1).

use serde_json::{Value, json};

use super::super::access::{at, fill, fill_absent, list, map, object_mut, same, text};
use super::super::errors::Errors;
use super::super::quantity::Quantity;
use super::super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, names, pod, table};
use super::{
    class, modes, unset, validate_class_name, validate_driver_name, validate_mode, validate_modes,
};

pub(crate) static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "PersistentVolume",
    plural: "persistentvolumes",
    singular: "persistentvolume",
    short_names: &["pv"],
    categories: &[],
    scope: Scope::Cluster,
    definition: "io.k8s.api.core.v1.PersistentVolume",
    subresources: &["status"],
    name_rule: NameRule::DnsSubdomain,
    strategy: &PersistentVolume,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::core::v1::PersistentVolume>();
    },
};

#[derive(Debug)]
struct PersistentVolume;

/// Where a volume may come from.
const SOURCES: &[&str] = &[
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "glusterfs",
    "hostPath",
    "iscsi",
    "local",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

impl Strategy for PersistentVolume {
    fn default(&self, object: &mut Value) {
        let spec = object_mut(object, &["spec"]);
        fill(spec, "persistentVolumeReclaimPolicy", "Retain");
        fill_absent(spec, "volumeMode", "Filesystem");
        super::default_source(spec);
        if let Some(host_path) = spec.get_mut("hostPath").and_then(Value::as_object_mut)
            && host_path.get("type").is_none_or(Value::is_null)
        {
            host_path.insert("type".into(), "".into());
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object_mut(object, &[]).insert("status".into(), json!({"phase": "Pending"}));
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        if subresource == "status" {
            meta::keep_all_but_status_and_labels(object, old);
        } else {
            meta::keep_status(object, old);
        }
    }

    fn validate(&self, object: &Value, old: Option<&Value>, subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        if subresource == "status" {
            return errors.into_vec();
        }
        validate_modes(object, &mut errors);
        capacity(object, &mut errors);
        policy(object, &mut errors);
        affinity(object, &mut errors);
        source(object, &mut errors);
        validate_mode(object, &mut errors);
        validate_class_name(object, &mut errors);
        if let Some(old) = old {
            for kind in SOURCES {
                if !same(at(object, &["spec", kind]), at(old, &["spec", kind])) {
                    errors.forbidden(
                        "spec.persistentvolumesource",
                        "spec.persistentvolumesource is immutable after creation",
                    );
                    break;
                }
            }
            errors.immutable(
                "spec.volumeMode",
                at(object, &["spec", "volumeMode"]),
                at(old, &["spec", "volumeMode"]),
            );
            if at(old, &["spec", "nodeAffinity"]).is_some() {
                errors.immutable(
                    "spec.nodeAffinity",
                    at(object, &["spec", "nodeAffinity"]),
                    at(old, &["spec", "nodeAffinity"]),
                );
            }
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Capacity", "string", "Size of the volume."),
            table::column("Access Modes", "string", "Ways in which it can be mounted."),
            table::column(
                "Reclaim Policy",
                "string",
                "What happens when it is released.",
            ),
            table::column("Status", "string", "Whether it is bound."),
            table::column("Claim", "string", "The claim that has it."),
            table::column("StorageClass", "string", "Its class."),
            table::column(
                "VolumeAttributesClass",
                "string",
                "Class of its attributes.",
            ),
            table::column("Reason", "string", "Why it is in this state."),
            table::AGE,
            table::wide("VolumeMode", "string", "Filesystem or Block."),
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let claim = match text(object, &["spec", "claimRef", "name"]) {
            "" => String::new(),
            name => format!(
                "{}/{name}",
                text(object, &["spec", "claimRef", "namespace"])
            ),
        };
        let phase = match text(object, &["metadata", "deletionTimestamp"]) {
            "" => text(object, &["status", "phase"]),
            _ => "Terminating",
        };
        let mode = text(object, &["spec", "volumeMode"]);
        vec![
            table::name(object),
            text(object, &["spec", "capacity", "storage"]).into(),
            modes(list(object, &["spec", "accessModes"])),
            text(object, &["spec", "persistentVolumeReclaimPolicy"]).into(),
            phase.into(),
            claim.into(),
            class(object).into(),
            unset(text(object, &["spec", "volumeAttributesClassName"])),
            text(object, &["status", "reason"]).into(),
            table::age(object, now),
            unset(mode),
        ]
    }
}

fn capacity(object: &Value, errors: &mut Errors) {
    let all = map(object, &["spec", "capacity"]);
    if all.is_none_or(serde_json::Map::is_empty) {
        errors.required("spec.capacity", "");
        return;
    }
    if all.is_some_and(|all| all.len() > 1 || !all.contains_key("storage")) {
        errors.not_supported(
            "spec.capacity",
            object["spec"]["capacity"].clone(),
            &["storage"],
        );
    }
    let size = text(object, &["spec", "capacity", "storage"]);
    if size
        .parse::<Quantity>()
        .is_ok_and(|size| size.is_negative() || size.is_zero())
    {
        errors.invalid("spec.capacity[storage]", size, "must be greater than zero");
    }
}

fn policy(object: &Value, errors: &mut Errors) {
    const POLICIES: &[&str] = &["Delete", "Recycle", "Retain"];
    let policy = text(object, &["spec", "persistentVolumeReclaimPolicy"]);
    if !policy.is_empty() && !POLICIES.contains(&policy) {
        errors.not_supported("spec.persistentVolumeReclaimPolicy", policy, POLICIES);
    }
    let root = text(object, &["spec", "hostPath", "path"]);
    if policy == "Recycle" && !root.is_empty() && root.trim_end_matches('/').is_empty() {
        errors.forbidden(
            "spec.persistentVolumeReclaimPolicy",
            "may not be 'recycle' for a hostPath mount of '/'",
        );
    }
}

fn affinity(object: &Value, errors: &mut Errors) {
    match at(object, &["spec", "nodeAffinity"]) {
        None if at(object, &["spec", "local"]).is_some() => {
            errors.required("spec.nodeAffinity", "Local volume requires node affinity");
        }
        None => {}
        Some(affinity) => match at(affinity, &["required"]) {
            None => errors.required(
                "spec.nodeAffinity.required",
                "must specify required node constraints",
            ),
            Some(required) => {
                pod::validate_node_selector(required, "spec.nodeAffinity.required", errors);
            }
        },
    }
}

/// What serves volumes that the cluster provisions itself. It bears the provisioner's name, which no other driver could have; stored
/// volumes do.
const OWN_DRIVER: &str = "waggle.dev/local";

const CSI_SECRETS: &[&str] = &[
    "controllerPublishSecretRef",
    "controllerExpandSecretRef",
    "nodePublishSecretRef",
    "nodeExpandSecretRef",
    "nodeStageSecretRef",
];

/// A Secret that a driver gets, which is named whole.
fn csi_secret(csi: &Value, name: &str, errors: &mut Errors) {
    let Some(reference) = at(csi, &[name]) else {
        return;
    };
    for (part, check) in [
        ("name", names::dns_subdomain as fn(&str) -> Vec<String>),
        ("namespace", names::dns_label),
    ] {
        let field = format!("spec.csi.{name}.{part}");
        let value = text(reference, &[part]);
        if value.is_empty() {
            errors.required(field, "");
        } else {
            errors.format(&field, value, check(value));
        }
    }
}

fn source(object: &Value, errors: &mut Errors) {
    let mut found = SOURCES
        .iter()
        .filter(|kind| at(object, &["spec", kind]).is_some());
    let Some(first) = found.next() else {
        errors.required("spec", "must specify a volume type");
        return;
    };
    for more in found {
        errors.forbidden(
            format!("spec.{more}"),
            "may not specify more than 1 volume type",
        );
    }
    let path = text(object, &["spec", first, "path"]);
    let field = format!("spec.{first}.path");
    match *first {
        "hostPath" => pod::host_path(&object["spec"]["hostPath"], "spec.hostPath", errors),
        "local" => {
            if path.is_empty() {
                errors.required(&*field, "");
            } else if path.split('/').any(|step| step == "..") {
                errors.invalid(&*field, path, "must not contain '..'");
            }
        }
        "nfs" => {
            if text(object, &["spec", "nfs", "server"]).is_empty() {
                errors.required("spec.nfs.server", "");
            }
            if path.is_empty() {
                errors.required(&*field, "");
            } else if !path.starts_with('/') {
                errors.invalid(&*field, path, "must be an absolute path");
            }
        }
        "csi" => {
            let driver = text(object, &["spec", "csi", "driver"]);
            if driver != OWN_DRIVER {
                validate_driver_name(driver, "spec.csi.driver", errors);
            }
            if text(object, &["spec", "csi", "volumeHandle"]).is_empty() {
                errors.required("spec.csi.volumeHandle", "");
            }
            for name in CSI_SECRETS {
                csi_secret(&object["spec"]["csi"], name, errors);
            }
        }
        _ => {}
    }
    for name in ["name", "namespace"] {
        let claim = text(object, &["spec", "claimRef", name]);
        if !claim.is_empty() {
            let messages = match name {
                "namespace" => names::dns_label(claim),
                _ => names::dns_subdomain(claim),
            };
            errors.format(&format!("spec.claimRef.{name}"), claim, messages);
        }
    }
}
