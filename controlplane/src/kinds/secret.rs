//! Secret (core/v1).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::access::{fill, map, object_mut, strings, text};
use super::config_map::frozen;
use super::errors::Errors;
use super::table;
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy, names};

pub(super) static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.core.v1.Secret",
    subresources: &[],
    name_rule: NameRule::DnsSubdomain,
    strategy: &Secret,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::core::v1::Secret>();
    },
};

const LIMIT: usize = 1024 * 1024;

#[derive(Debug)]
struct Secret;

impl Strategy for Secret {
    fn default(&self, object: &mut Value) {
        fill(object_mut(object, &[]), "type", "Opaque");
        // stringData is a write-only way to give data.
        let plain: Vec<(String, String)> = strings(object, &["stringData"])
            .map(|(key, value)| (key.to_owned(), STANDARD.encode(value)))
            .collect();
        object_mut(object, &[]).remove("stringData");
        if !plain.is_empty() {
            let data = object_mut(object, &["data"]);
            for (key, value) in plain {
                data.insert(key, value.into());
            }
        }
    }

    fn prepare_update(&self, _object: &mut Value, _old: &Value, _subresource: &str) {}

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let mut size = 0;
        for (key, value) in strings(object, &["data"]) {
            errors.format(&format!("data[{key}]"), key, names::config_key(key));
            size += value.len() / 4 * 3;
        }
        if size > LIMIT {
            errors.too_long("data", LIMIT);
        }
        typed(object, &mut errors);
        if let Some(old) = old {
            errors.immutable("type", object.get("type"), old.get("type"));
            frozen(object, old, &["data"], &mut errors);
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Type", "string", "What the secret is for."),
            table::column("Data", "string", "Number of keys."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![
            table::name(object),
            text(object, &["type"]).into(),
            map(object, &["data"])
                .map_or(0, serde_json::Map::len)
                .into(),
            table::age(object, now),
        ]
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("type", text(object, &["type"]).to_owned())]
    }
}

/// What each well-known type must contain.
fn typed(object: &Value, errors: &mut Errors) {
    let value = |key: &str| map(object, &["data"]).and_then(|data| data.get(key));
    let require = |keys: &[&str], errors: &mut Errors| {
        for key in keys {
            if value(key).is_none() {
                errors.required(format!("data[{key}]"), "");
            }
        }
    };
    let require_json = |key: &str, errors: &mut Errors| match value(key) {
        None => errors.required(format!("data[{key}]"), ""),
        Some(encoded) => {
            let decoded = STANDARD
                .decode(encoded.as_str().unwrap_or(""))
                .unwrap_or_default();
            let problem = match serde_json::from_slice::<Value>(&decoded) {
                Ok(Value::Object(_) | Value::Null) => return,
                Ok(_) => "must be a JSON object".to_owned(),
                Err(error) => error.to_string(),
            };
            let field = format!("data[{key}]");
            errors.invalid(field, "<secret contents redacted>", &problem);
        }
    };
    match text(object, &["type"]) {
        "kubernetes.io/service-account-token" => {
            let account = text(
                object,
                &[
                    "metadata",
                    "annotations",
                    "kubernetes.io/service-account.name",
                ],
            );
            if account.is_empty() {
                errors.required(
                    "metadata.annotations[kubernetes.io/service-account.name]",
                    "",
                );
            }
        }
        "kubernetes.io/dockercfg" => require_json(".dockercfg", errors),
        "kubernetes.io/dockerconfigjson" => require_json(".dockerconfigjson", errors),
        "kubernetes.io/basic-auth"
            if value("username").is_none() && value("password").is_none() =>
        {
            errors.required("data[username]", "");
            errors.required("data[password]", "");
        }
        "kubernetes.io/ssh-auth"
            if value("ssh-privatekey").is_none_or(|key| key.as_str() == Some("")) =>
        {
            errors.required("data[ssh-privatekey]", "");
        }
        "kubernetes.io/tls" => require(&["tls.crt", "tls.key"], errors),
        _ => {}
    }
}
