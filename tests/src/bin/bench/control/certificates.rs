//! A CA of etcd's own, so that it bears the same cost of TLS as our members do.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// PEM files: one certificate for servers, members and clients.
#[derive(Debug, Clone)]
pub(super) struct Certificates {
    pub(super) ca: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl Certificates {
    pub(super) fn make(directory: &Path) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate()?;
        let ca = params.self_signed(&ca_key)?;
        let issuer = Issuer::new(params, ca_key);
        let key = KeyPair::generate()?;
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let certificate = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
        let this = Self {
            ca: directory.join("ca.crt"),
            certificate: directory.join("etcd.crt"),
            key: directory.join("etcd.key"),
        };
        std::fs::write(&this.ca, ca.pem())?;
        std::fs::write(&this.certificate, certificate.pem())?;
        std::fs::write(&this.key, key.serialize_pem())?;
        Ok(this)
    }
}
