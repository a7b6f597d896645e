//! CertificateSigningRequests: the request bears the name of who makes it, and approving and signing are rights
//! on the signer (`approve` and `sign` on `signers`), besides that on the object.

use serde_json::{Value, json};

use super::Api;
use super::read::Subject;
use crate::auth::{Attributes, User};
use crate::kinds::Kind;
use crate::kinds::certificate_signing_request::{GROUP, KIND};
use crate::registry::{ApiError, Guard};

const MASTERS: &str = "system:masters";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

/// Whatever the client wrote there: the request is its own.
pub(super) fn sign_with_name(kind: &Kind<'_>, user: &User, object: &mut Value) {
    if (kind.group, kind.plural) != (GROUP, KIND.plural) || !object["spec"].is_object() {
        return;
    }
    let spec = &mut object["spec"];
    spec["username"] = user.name.clone().into();
    spec["groups"] = json!(user.groups);
    for (field, value, empty) in [
        ("uid", json!(user.uid), user.uid.is_empty()),
        ("extra", json!(user.extra), user.extra.is_empty()),
    ] {
        if let Some(spec) = spec.as_object_mut() {
            spec.remove(field);
            if !empty {
                spec.insert(field.to_owned(), value);
            }
        }
    }
}

impl Api {
    pub(super) fn certificate_guard(&self, user: &User, subject: Subject<'_>) -> Option<Guard> {
        if (subject.kind.group, subject.kind.plural) != (GROUP, KIND.plural) {
            return None;
        }
        let verb = match subject.subresource {
            "approval" => "approve",
            "status" => "sign",
            _ => return Some(Guard::new(|old, new| new_request(old, new))),
        };
        let (authorizer, user) = (self.authorizer.clone(), user.clone());
        Some(Guard::new(move |_, new| {
            let signer = new["spec"]["signerName"].as_str().unwrap_or_default();
            let domain = signer.split('/').next().unwrap_or_default();
            let may = [signer.to_owned(), format!("{domain}/*")]
                .into_iter()
                .any(|name| {
                    let wanted = Attributes {
                        verb: verb.to_owned(),
                        group: GROUP.to_owned(),
                        version: "v1".to_owned(),
                        resource: "signers".to_owned(),
                        name,
                        ..Attributes::default()
                    };
                    authorizer.allows(&user, &wanted)
                });
            if may {
                return Ok(());
            }
            let name = new["metadata"]["name"].as_str().unwrap_or_default();
            let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
            Err(ApiError::forbidden(GROUP, KIND.plural, name, &why))
        }))
    }
}

/// Nobody gets a certificate with the rights of everything.
fn new_request(old: Option<&Value>, new: &Value) -> Result<(), ApiError> {
    use base64::Engine;
    if old.is_some() || new["spec"]["signerName"] != CLIENT {
        return Ok(());
    }
    let encoded = new["spec"]["request"].as_str().unwrap_or_default();
    let pem = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .unwrap_or_default();
    let request = crate::auth::csr::SigningRequest::parse(&String::from_utf8_lossy(&pem));
    match request {
        Ok(request) if request.organization.as_deref() == Some(MASTERS) => {
            let name = new["metadata"]["name"].as_str().unwrap_or_default();
            Err(ApiError::forbidden(
                GROUP,
                KIND.plural,
                name,
                "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed",
            ))
        }
        _ => Ok(()),
    }
}
