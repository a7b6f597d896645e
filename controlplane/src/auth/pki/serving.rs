//! The certificate that new connections are served with; it may be replaced while the member runs.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use super::{Leaf, PkiError, certificate, content_error};

#[derive(Debug)]
pub(super) struct Serving(ArcSwap<CertifiedKey>);

impl Serving {
    /// With the CA behind it: who joins the cluster pins that one.
    pub(super) fn new(server: &Leaf, ca_pem: &str) -> Result<Self, PkiError> {
        let chain = vec![
            certificate(Path::new("server.crt"), &server.certificate)?,
            certificate(Path::new("ca.crt"), ca_pem)?,
        ];
        let path = Path::new("server.key");
        let key = PrivateKeyDer::from_pem_slice(server.key.as_bytes())
            .map_err(|error| content_error(path, error))?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key)
            .map_err(|error| content_error(path, error))?;
        Ok(Self(ArcSwap::from_pointee(CertifiedKey::new(chain, key))))
    }

    #[cfg(test)]
    pub(super) fn leaf(&self) -> Vec<u8> {
        self.0.load().cert[0].to_vec()
    }

    pub(super) fn replace(&self, with: &Self) {
        self.0.store(with.0.load_full());
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}
