//! CertificateSigningRequests: those of nodes are approved where the one who asks has the right to it; what is
//! approved is signed; what is done with goes after a while.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Keys;
use crate::auth::csr::{CLIENT, NODE_CLIENT, NODE_SERVING, SigningRequest};
use crate::auth::{Attributes, Chain, Pki, User};
use crate::cache::{Cache, ObjectKey, Queue, Subscription};
use crate::controllers::worker::Next;
use crate::registry::{ApiError, Client, DeleteOptions};

pub(super) const NAME: &str = "certificate-controller";
const SIGNERS: &[&str] = &[CLIENT, NODE_CLIENT, NODE_SERVING];
/// A year, as the documentation of Kubernetes has it.
const LIFE: i64 = 365 * 24 * 3600;
const HOUR: i64 = 3600;

/// What is to be done with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Approve(&'static str),
    Sign,
    Fail(String),
    Remove,
    /// Look again after so many seconds.
    Wait(i64),
}

pub(super) struct Controller {
    client: Client,
    cache: Cache,
    authorizer: Chain,
    pki: Arc<Pki>,
}

pub(super) fn subscribe(cache: &Cache, queue: &Queue<ObjectKey>) -> Vec<Subscription> {
    let queue = queue.clone();
    vec![cache.certificate_signing_requests.subscribe(move |delta| {
        if delta.new.is_some() {
            queue.add(delta.key.clone());
        }
    })]
}

fn has(csr: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = csr.status.iter().flat_map(|status| &status.conditions);
    conditions
        .flatten()
        .any(|condition| condition.type_ == kind)
}

fn parsed(csr: &CertificateSigningRequest) -> Result<SigningRequest, String> {
    let pem = String::from_utf8_lossy(&csr.spec.request.0);
    let request = SigningRequest::parse(&pem).map_err(|error| error.to_string())?;
    let usages = csr.spec.usages.as_deref().unwrap_or_default();
    request
        .check(&csr.spec.signer_name, usages)
        .map_err(|error| error.to_string())?;
    Ok(request)
}

/// Pure; `may` says whether the one who asks may `create` this subresource of requests.
fn plan(csr: &CertificateSigningRequest, may: impl Fn(&str) -> bool, age: i64) -> Step {
    let issued = csr
        .status
        .as_ref()
        .is_some_and(|status| status.certificate.is_some());
    let done = issued || has(csr, "Denied") || has(csr, "Failed");
    let keep = if done || has(csr, "Approved") {
        HOUR
    } else {
        24 * HOUR
    };
    if age >= keep && (done || !has(csr, "Approved")) {
        return Step::Remove;
    }
    let rest = Step::Wait((keep - age).max(60));
    if done || !SIGNERS.contains(&csr.spec.signer_name.as_str()) {
        return rest;
    }
    let request = parsed(csr);
    if has(csr, "Approved") {
        return match request {
            Ok(_) => Step::Sign,
            Err(why) => Step::Fail(why),
        };
    }
    match request {
        Ok(request) if csr.spec.signer_name == NODE_CLIENT => {
            let own = csr.spec.username.as_deref() == Some(request.name.as_str());
            if own && may("selfnodeclient") {
                Step::Approve(
                    "Auto approving self kubelet client certificate after SubjectAccessReview.",
                )
            } else if may("nodeclient") {
                Step::Approve(
                    "Auto approving kubelet client certificate after SubjectAccessReview.",
                )
            } else {
                rest
            }
        }
        _ => rest,
    }
}

fn user(csr: &CertificateSigningRequest) -> User {
    User {
        name: csr.spec.username.clone().unwrap_or_default(),
        groups: csr.spec.groups.clone().unwrap_or_default(),
        uid: csr.spec.uid.clone().unwrap_or_default(),
        extra: csr.spec.extra.clone().unwrap_or_default(),
    }
}

fn condition(kind: &str, reason: &str, message: &str) -> CertificateSigningRequestCondition {
    let now = Time(jiff::Timestamp::now());
    CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(now.clone()),
        last_update_time: Some(now),
    }
}

impl Controller {
    pub(super) fn new(client: &Client, cache: &Cache, keys: &Keys) -> Self {
        Self {
            client: client.with_manager(NAME),
            cache: cache.clone(),
            authorizer: keys.authorizer.clone(),
            pki: Arc::clone(&keys.pki),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        let Some(csr) = self.cache.certificate_signing_requests.get_key(&key) else {
            return Ok(Next::Wait);
        };
        let now = jiff::Timestamp::now();
        let made = csr.metadata.creation_timestamp.as_ref();
        let age = made.map_or(0, |made| now.as_second() - made.0.as_second());
        let asker = user(&csr);
        let may = |subresource: &str| {
            let wanted = Attributes {
                verb: "create".to_owned(),
                group: "certificates.k8s.io".to_owned(),
                version: "v1".to_owned(),
                resource: "certificatesigningrequests".to_owned(),
                subresource: subresource.to_owned(),
                ..Attributes::default()
            };
            self.authorizer.allows(&asker, &wanted)
        };
        let mut changed = csr.as_ref().clone();
        let status = changed.status.get_or_insert_with(Default::default);
        match plan(&csr, may, age) {
            Step::Approve(message) => {
                add(status, condition("Approved", "AutoApproved", message));
                self.write(&changed, "approval").await?;
            }
            Step::Sign => {
                let request = parsed(&csr).map_err(|why| super::super::context_error(&why))?;
                let usages = csr.spec.usages.as_deref().unwrap_or_default();
                let seconds = csr.spec.expiration_seconds.map_or(LIFE, i64::from);
                match self.pki.sign(&request, usages, seconds.min(LIFE), now) {
                    Ok(pem) => status.certificate = Some(ByteString(pem.into_bytes())),
                    Err(error) => add(
                        status,
                        condition("Failed", "SigningFailed", &error.to_string()),
                    ),
                }
                self.write(&changed, "status").await?;
            }
            Step::Fail(why) => {
                add(status, condition("Failed", "SignerValidationFailure", &why));
                self.write(&changed, "status").await?;
            }
            Step::Remove => {
                let options = DeleteOptions {
                    uid: csr.metadata.uid.clone(),
                    ..DeleteOptions::default()
                };
                self.client
                    .delete::<CertificateSigningRequest>("", &key.name, options)
                    .await?;
            }
            Step::Wait(seconds) => {
                let seconds = u64::try_from(seconds).unwrap_or(60);
                return Ok(Next::After(Duration::from_secs(seconds)));
            }
        }
        Ok(Next::Wait)
    }

    /// What somebody else has written meanwhile is looked at when it comes.
    async fn write(
        &self,
        changed: &CertificateSigningRequest,
        subresource: &str,
    ) -> Result<(), ApiError> {
        let written = match subresource {
            "approval" => self.client.update_subresource(changed, "approval").await,
            _ => self.client.update_status(changed).await,
        };
        match written {
            Err(error) if error.code() != 404 => Err(error),
            _ => Ok(()),
        }
    }
}

fn add(
    status: &mut CertificateSigningRequestStatus,
    condition: CertificateSigningRequestCondition,
) {
    status.conditions.get_or_insert_default().push(condition);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn csr(name: &str, organization: &str, asker: &str) -> CertificateSigningRequest {
        let mut params = rcgen::CertificateParams::default();
        let mut subject = rcgen::DistinguishedName::new();
        subject.push(rcgen::DnType::CommonName, name);
        subject.push(rcgen::DnType::OrganizationName, organization);
        params.distinguished_name = subject;
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        let mut csr = CertificateSigningRequest::default();
        csr.spec.request = ByteString(pem.into_bytes());
        csr.spec.signer_name = NODE_CLIENT.to_owned();
        csr.spec.usages = Some(vec![
            "digital signature".to_owned(),
            "client auth".to_owned(),
        ]);
        csr.spec.username = Some(asker.to_owned());
        csr
    }

    fn with(mut csr: CertificateSigningRequest, kind: &str) -> CertificateSigningRequest {
        let status = csr.status.get_or_insert_default();
        add(status, condition(kind, "", ""));
        csr
    }

    #[test]
    fn nodes_are_approved_where_the_asker_may() {
        let own = csr("system:node:n1", "system:nodes", "system:node:n1");
        assert!(matches!(
            plan(&own, |which| which == "selfnodeclient", 0),
            Step::Approve(_)
        ));
        let other = csr("system:node:n2", "system:nodes", "system:node:n1");
        assert!(matches!(
            plan(&other, |which| which == "selfnodeclient", 0),
            Step::Wait(_)
        ));
        let joins = csr("system:node:n1", "system:nodes", "system:bootstrap:abcdef");
        assert!(matches!(
            plan(&joins, |which| which == "nodeclient", 0),
            Step::Approve(_)
        ));
        assert!(matches!(plan(&joins, |_| false, 0), Step::Wait(_)));
        let root = csr(
            "system:node:n1",
            "system:masters",
            "system:bootstrap:abcdef",
        );
        assert!(matches!(plan(&root, |_| true, 0), Step::Wait(_)));
    }

    #[test]
    fn what_is_approved_is_signed_or_fails() {
        let good = csr("system:node:n1", "system:nodes", "x");
        assert_eq!(
            plan(&with(good.clone(), "Approved"), |_| false, 0),
            Step::Sign
        );
        let bad = csr("n1", "system:masters", "x");
        assert!(matches!(
            plan(&with(bad, "Approved"), |_| false, 0),
            Step::Fail(_)
        ));
        assert!(matches!(
            plan(&with(good.clone(), "Denied"), |_| true, 0),
            Step::Wait(_)
        ));
        assert_eq!(
            plan(&with(good.clone(), "Denied"), |_| true, HOUR),
            Step::Remove
        );
        assert_eq!(plan(&good, |_| false, 24 * HOUR), Step::Remove);
        let mut foreign = good;
        foreign.spec.signer_name = "example.com/own".to_owned();
        assert!(matches!(
            plan(&with(foreign, "Approved"), |_| true, 0),
            Step::Wait(_)
        ));
    }
}
