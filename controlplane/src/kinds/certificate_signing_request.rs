//! CertificateSigningRequest (certificates.k8s.io/v1). Who asks is written into it by the API; approving and
//! signing are rights of their own, which the API looks at.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::access::{at, integer, list, object_mut, same, text};
use super::errors::Errors;
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, table, time};

pub(crate) const GROUP: &str = "certificates.k8s.io";

pub(crate) static KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "CertificateSigningRequest",
    plural: "certificatesigningrequests",
    singular: "certificatesigningrequest",
    short_names: &["csr"],
    categories: &[],
    scope: Scope::Cluster,
    definition: "io.k8s.api.certificates.v1.CertificateSigningRequest",
    subresources: &["approval", "status"],
    name_rule: NameRule::DnsSubdomain,
    strategy: &CertificateSigningRequest,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::certificates::v1::CertificateSigningRequest>();
    },
};

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const LEAST_SECONDS: i64 = 600;
const LASTING: &[&str] = &["Approved", "Denied", "Failed"];

#[derive(Debug)]
struct CertificateSigningRequest;

impl Strategy for CertificateSigningRequest {
    fn default(&self, object: &mut Value) {
        for condition in super::access::list_mut(object, &["status", "conditions"]) {
            if text(condition, &["status"]).is_empty() && condition.is_object() {
                condition["status"] = "True".into();
            }
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object_mut(object, &[]).insert("status".into(), json!({}));
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        let new_status = at(object, &["status"]).cloned().unwrap_or(json!({}));
        match subresource {
            "approval" => {
                // Who approves says conditions; the rest of the status is the signer's.
                meta::keep_all_but_status_and_labels(object, old);
                let mut status = at(old, &["status"]).cloned().unwrap_or(json!({}));
                let conditions = list(&new_status, &["conditions"]).to_vec();
                object_mut(&mut status, &[]).insert("conditions".into(), conditions.into());
                object_mut(object, &[]).insert("status".into(), status);
            }
            "status" => {
                meta::keep_all_but_status_and_labels(object, old);
                keep_verdict(object, old);
            }
            _ => {
                meta::keep_status(object, old);
                if let Some(spec) = at(old, &["spec"]).cloned() {
                    object_mut(object, &[]).insert("spec".into(), spec);
                }
            }
        }
    }

    fn validate(&self, object: &Value, old: Option<&Value>, subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        match old {
            None => validate_spec(object, &mut errors),
            Some(old) => validate_status(object, old, subresource, &mut errors),
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::AGE,
            table::column("SignerName", "string", "Who is to sign."),
            table::column("Requestor", "string", "Who asks."),
            table::column("RequestedDuration", "string", "How long it is to be valid."),
            table::column("Condition", "string", "What has become of it."),
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let duration = match integer(object, &["spec", "expirationSeconds"]) {
            Some(seconds) => time::human_duration(seconds).into(),
            None => "<none>".into(),
        };
        vec![
            table::name(object),
            table::age(object, now),
            text(object, &["spec", "signerName"]).into(),
            text(object, &["spec", "username"]).into(),
            duration,
            condition(object).into(),
        ]
    }

    fn selectable(&self, object: &Value) -> Vec<(&'static str, String)> {
        let signer = text(object, &["spec", "signerName"]).to_owned();
        vec![("spec.signerName", signer)]
    }
}

/// Whether a request is approved is not for who signs: these conditions stay as they are.
fn keep_verdict(object: &mut Value, old: &Value) {
    let is_verdict =
        |condition: &Value| matches!(text(condition, &["type"]), "Approved" | "Denied");
    let stored = list(old, &["status", "conditions"]);
    let given = list(object, &["status", "conditions"]);
    let kept = stored.iter().filter(|condition| is_verdict(condition));
    let others = given.iter().filter(|condition| !is_verdict(condition));
    let conditions: Vec<Value> = kept.chain(others).cloned().collect();
    if !conditions.is_empty() || !given.is_empty() {
        object_mut(object, &["status"]).insert("conditions".into(), conditions.into());
    }
}

fn has(object: &Value, kind: &str) -> bool {
    list(object, &["status", "conditions"])
        .iter()
        .any(|condition| text(condition, &["type"]) == kind)
}

fn condition(object: &Value) -> String {
    let mut parts: Vec<&str> = LASTING
        .iter()
        .copied()
        .filter(|kind| has(object, kind))
        .collect();
    if parts.is_empty() {
        parts.push("Pending");
    }
    if !text(object, &["status", "certificate"]).is_empty() {
        parts.push("Issued");
    }
    parts.join(",")
}

fn validate_spec(object: &Value, errors: &mut Errors) {
    let encoded = text(object, &["spec", "request"]);
    let pem = STANDARD.decode(encoded).unwrap_or_default();
    let pem = String::from_utf8_lossy(&pem);
    if encoded.is_empty() {
        errors.required("spec.request", "");
    } else if !pem.contains("CERTIFICATE REQUEST-----") {
        errors.invalid(
            "spec.request",
            encoded,
            "PEM block type must be CERTIFICATE REQUEST",
        );
    } else if let Err(why) = rcgen::CertificateSigningRequestParams::from_pem(&pem) {
        errors.invalid("spec.request", encoded, &why.to_string());
    }
    let usages = list(object, &["spec", "usages"]);
    if usages.is_empty() {
        errors.required("spec.usages", "");
    }
    let mut seen = Vec::new();
    for (index, usage) in usages.iter().enumerate() {
        let field = format!("spec.usages[{index}]");
        let usage = usage.as_str().unwrap_or("");
        if !USAGES.contains(&usage) {
            errors.not_supported(field, usage, USAGES);
        } else if seen.contains(&usage) {
            errors.duplicate(field, usage);
        }
        seen.push(usage);
    }
    signer(text(object, &["spec", "signerName"]), errors);
    if let Some(seconds) = integer(object, &["spec", "expirationSeconds"])
        && seconds < LEAST_SECONDS
    {
        errors.invalid(
            "spec.expirationSeconds",
            seconds,
            "may not specify a duration less than 600 seconds (10 minutes)",
        );
    }
}

fn signer(name: &str, errors: &mut Errors) {
    const FIELD: &str = "spec.signerName";
    if name.is_empty() {
        errors.required(FIELD, "");
        return;
    }
    if name == "kubernetes.io/legacy-unknown" {
        errors.invalid(
            FIELD,
            name,
            "the legacy signerName is not allowed via this API version",
        );
        return;
    }
    let domain = name.split_once('/').filter(|(domain, path)| {
        domain.contains('.')
            && super::names::dns_subdomain(domain).is_empty()
            && !path.is_empty()
            && !path.contains('/')
    });
    if domain.is_none() {
        errors.invalid(
            FIELD,
            name,
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        );
    }
}

fn validate_status(object: &Value, old: &Value, subresource: &str, errors: &mut Errors) {
    if subresource.is_empty() {
        return;
    }
    for (index, condition) in list(object, &["status", "conditions"]).iter().enumerate() {
        let field = format!("status.conditions[{index}]");
        let kind = text(condition, &["type"]);
        if kind.is_empty() {
            errors.required(format!("{field}.type"), "");
        }
        let status = text(condition, &["status"]);
        if LASTING.contains(&kind) && status != "True" {
            errors.not_supported(format!("{field}.status"), status, &["True"]);
        }
    }
    if has(object, "Approved") && has(object, "Denied") {
        errors.invalid(
            "status.conditions",
            "Denied",
            "Approved and Denied conditions are mutually exclusive",
        );
    }
    for kind in LASTING {
        if has(old, kind) && !has(object, kind) {
            errors.forbidden(
                "status.conditions",
                &format!("updates may not remove a condition of type {kind:?}"),
            );
        }
    }
    let certificate = |object: &Value| at(object, &["status", "certificate"]).cloned();
    let (new, known) = (certificate(object), certificate(old));
    if !text(old, &["status", "certificate"]).is_empty() && !same(new.as_ref(), known.as_ref()) {
        errors.forbidden(
            "status.certificate",
            "updates may not modify a set certificate",
        );
    }
    if let Some(Value::String(encoded)) = &new {
        let pem = STANDARD.decode(encoded).unwrap_or_default();
        if !encoded.is_empty() && !pem.starts_with(b"-----BEGIN CERTIFICATE-----") {
            errors.invalid(
                "status.certificate",
                "<certificate data>",
                "must contain at least one CERTIFICATE PEM block",
            );
        }
    }
}
