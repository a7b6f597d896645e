//! Certificates for simulated nodes, by the CA in the controller's data directory: as `waggle controller --issue-node`
//! makes them, for thousands at once.

use std::path::Path;

use anyhow::Context as _;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose};

pub(super) struct Authority {
    pub(super) ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn read(data: &Path) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = data.join("pki").join(name);
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        let ca_pem = read("ca.crt")?;
        let key = KeyPair::from_pem(&read("ca.key")?)?;
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, key)?;
        Ok(Self { ca_pem, issuer })
    }

    /// Certificate and key, PEM.
    pub(super) fn node(&self, name: &str) -> anyhow::Result<(String, String)> {
        let mut params = CertificateParams::default();
        let subject = &mut params.distinguished_name;
        subject.push(DnType::CommonName, format!("system:node:{name}"));
        subject.push(DnType::OrganizationName, "system:nodes");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}
