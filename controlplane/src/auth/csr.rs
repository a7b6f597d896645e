//! Certificate signing requests: what they say, and what the built-in signers of Kubernetes demand of them. Pure.
//! Source: the Kubernetes documentation, "Certificates and Certificate Signing Requests".

use rcgen::{CertificateSigningRequestParams, DnType, DnValue, SanType};

use super::identity::{MASTERS, NODES};

pub(crate) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(crate) const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(crate) const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CsrError {
    #[error("the request cannot be read: {0}")]
    Malformed(String),
    #[error("{0}")]
    Demand(&'static str),
    #[error("usages {0:?} are not those of the signer")]
    Usages(Vec<String>),
}

/// A request whose signature was found good.
pub(crate) struct SigningRequest {
    pub(super) params: CertificateSigningRequestParams,
    pub(crate) name: String,
    pub(crate) organization: Option<String>,
}

impl std::fmt::Debug for SigningRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningRequest")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn text(value: &DnValue) -> String {
    match value {
        DnValue::Utf8String(text) => text.clone(),
        DnValue::PrintableString(text) => text.as_str().to_owned(),
        DnValue::Ia5String(text) => text.as_str().to_owned(),
        DnValue::TeletexString(text) => text.as_str().to_owned(),
        _ => String::new(),
    }
}

impl SigningRequest {
    pub(crate) fn parse(pem: &str) -> Result<Self, CsrError> {
        let malformed = |why: String| CsrError::Malformed(why);
        check_subject(pem)?;
        let params = CertificateSigningRequestParams::from_pem(pem)
            .map_err(|error| malformed(error.to_string()))?;
        let subject = &params.params.distinguished_name;
        let name = subject
            .get(&DnType::CommonName)
            .map(text)
            .unwrap_or_default();
        let organization = subject.get(&DnType::OrganizationName).map(text);
        Ok(Self {
            params,
            name,
            organization,
        })
    }

    fn has_addresses(&self) -> bool {
        self.params
            .params
            .subject_alt_names
            .iter()
            .any(|name| matches!(name, SanType::DnsName(_) | SanType::IpAddress(_)))
    }

    fn has_others(&self) -> bool {
        self.params
            .params
            .subject_alt_names
            .iter()
            .any(|name| !matches!(name, SanType::DnsName(_) | SanType::IpAddress(_)))
    }

    /// Whether the subject is a node.
    pub(crate) fn is_node(&self) -> bool {
        self.organization.as_deref() == Some(NODES)
            && self
                .name
                .strip_prefix("system:node:")
                .is_some_and(|node| !node.is_empty())
    }

    /// What this signer demands.
    pub(crate) fn check(&self, signer: &str, usages: &[String]) -> Result<(), CsrError> {
        let nodes_only = CsrError::Demand(
            "subject organization is not system:nodes or subject common name does not begin with system:node: ",
        );
        match signer {
            CLIENT if self.organization.as_deref() == Some(MASTERS) => Err(CsrError::Demand(
                "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed",
            )),
            CLIENT => usages_among(
                usages,
                &["client auth"],
                &["digital signature", "key encipherment"],
            ),
            NODE_CLIENT if !self.is_node() => Err(nodes_only),
            NODE_CLIENT if self.has_addresses() || self.has_others() => Err(CsrError::Demand(
                "subject alternative names are not allowed",
            )),
            NODE_CLIENT => usages_among(
                usages,
                &["client auth", "digital signature"],
                &["key encipherment"],
            ),
            NODE_SERVING if !self.is_node() => Err(nodes_only),
            NODE_SERVING if self.has_others() => Err(CsrError::Demand(
                "email and URI subject alternative names are not allowed",
            )),
            NODE_SERVING if !self.has_addresses() => Err(CsrError::Demand(
                "at least one DNS or IP subject alternative name is required",
            )),
            NODE_SERVING => usages_among(
                usages,
                &["server auth", "digital signature"],
                &["key encipherment"],
            ),
            _ => Ok(()),
        }
    }
}

/// One value of each kind: the certificate could not say more.
fn check_subject(pem: &str) -> Result<(), CsrError> {
    use rustls_pki_types::pem::PemObject;
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::FromDer;
    let der = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| CsrError::Malformed(error.to_string()))?;
    let (_, request) = X509CertificationRequest::from_der(der.as_ref())
        .map_err(|error| CsrError::Malformed(error.to_string()))?;
    let subject = &request.certification_request_info.subject;
    if subject.iter_organization().count() > 1 || subject.iter_common_name().count() > 1 {
        return Err(CsrError::Demand(
            "a subject with more than one organization or common name is not supported",
        ));
    }
    Ok(())
}

fn usages_among(usages: &[String], needed: &[&str], optional: &[&str]) -> Result<(), CsrError> {
    let complete = needed
        .iter()
        .all(|needed| usages.iter().any(|usage| usage == needed));
    let known = usages
        .iter()
        .all(|usage| needed.contains(&usage.as_str()) || optional.contains(&usage.as_str()));
    if complete && known {
        Ok(())
    } else {
        Err(CsrError::Usages(usages.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn request(name: &str, organization: &str, sans: &[&str]) -> SigningRequest {
        let sans: Vec<String> = sans.iter().map(|san| (*san).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(sans).unwrap();
        let mut subject = rcgen::DistinguishedName::new();
        subject.push(DnType::CommonName, name);
        if !organization.is_empty() {
            subject.push(DnType::OrganizationName, organization);
        }
        params.distinguished_name = subject;
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        SigningRequest::parse(&pem).unwrap()
    }

    fn usages(usages: &[&str]) -> Vec<String> {
        usages.iter().map(|usage| (*usage).to_owned()).collect()
    }

    #[test]
    fn each_signer_has_its_demands() {
        let client = usages(&["digital signature", "client auth"]);
        let node = request("system:node:n1", "system:nodes", &[]);
        assert_eq!(node.check(NODE_CLIENT, &client), Ok(()));
        let too_much = usages(&["digital signature", "client auth", "server auth"]);
        assert!(node.check(NODE_CLIENT, &too_much).is_err());
        assert!(node.check(NODE_SERVING, &client).is_err());
        for (name, group, sans) in [
            ("system:node:", "system:nodes", &[][..]),
            ("system:node:n1", "system:masters", &[]),
            ("n1", "system:nodes", &[]),
            ("system:node:n1", "system:nodes", &["n1.example"]),
        ] {
            let request = request(name, group, sans);
            assert!(
                request.check(NODE_CLIENT, &client).is_err(),
                "{name} {group}"
            );
        }
        let admin = request("root", "system:masters", &[]);
        assert!(admin.check(CLIENT, &client).is_err());
        let serving = usages(&["digital signature", "server auth"]);
        let server = request("system:node:n1", "system:nodes", &["10.0.0.1", "n1"]);
        assert_eq!(server.check(NODE_SERVING, &serving), Ok(()));
        assert!(SigningRequest::parse("nonsense").is_err());
    }
}
