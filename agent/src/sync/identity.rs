//! Who this node is: its client certificate, renewed before it ends and without a restart. A new key is made for
//! each certificate; what is new is used by the next stream.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::node::v1 as wire;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::ClientConfig;

/// A refused or unanswered request is made again after this.
const RETRY: Duration = Duration::from_secs(300);

/// Shared by the streams that come one after the other; the lock is held for moments.
#[derive(Clone)]
pub(super) struct Identity {
    node_name: String,
    directory: Option<PathBuf>,
    present: Arc<Mutex<Present>>,
    /// The cluster trusts other CAs than before.
    other_cas: Arc<tokio::sync::Notify>,
}

struct Present {
    ca: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
    /// Key of the certificate that was asked for.
    next: Option<String>,
    asked: Option<tokio::time::Instant>,
}

impl Identity {
    pub(super) fn new(config: &ClientConfig) -> Self {
        Self {
            node_name: config.node_name.clone(),
            directory: config.identity_dir.clone(),
            present: Arc::new(Mutex::new(Present {
                ca: config.ca_pem.clone(),
                certificate: config.certificate_pem.clone(),
                key: config.key_pem.clone(),
                next: None,
                asked: None,
            })),
            other_cas: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// CA, certificate and key, PEM.
    pub(super) fn pem(&self) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let present = self.lock();
        (
            present.ca.clone(),
            present.certificate.clone(),
            present.key.clone(),
        )
    }

    /// Resolves when it is time to ask for a new certificate, with the request to send.
    pub(super) fn request(&self) -> impl Future<Output = String> + Send + use<> {
        let this = self.clone();
        async move {
            loop {
                let now = jiff::Timestamp::now().as_second();
                let wait = {
                    let present = this.lock();
                    let wait = renew_in(&present.certificate, &present.ca, now);
                    let asked = present.asked.map(|asked| asked + RETRY);
                    let pause =
                        asked.map(|at| at.saturating_duration_since(tokio::time::Instant::now()));
                    wait.max(pause.unwrap_or_default())
                };
                if wait.is_zero()
                    && let Some(request) = this.make()
                {
                    return request;
                }
                // Clocks are set, and nodes sleep: looked at now and then.
                tokio::select! {
                    () = tokio::time::sleep(wait.clamp(Duration::from_secs(1), RETRY)) => {}
                    () = this.other_cas.notified() => {}
                }
            }
        }
    }

    fn make(&self) -> Option<String> {
        let made = KeyPair::generate().and_then(|key| {
            let mut params = CertificateParams::default();
            let mut subject = DistinguishedName::new();
            subject.push(DnType::OrganizationName, "system:nodes");
            subject.push(
                DnType::CommonName,
                format!("system:node:{}", self.node_name),
            );
            params.distinguished_name = subject;
            let request = params.serialize_request(&key)?.pem()?;
            Ok((key.serialize_pem(), request))
        });
        let mut present = self.lock();
        present.asked = Some(tokio::time::Instant::now());
        match made {
            Ok((key, request)) => {
                present.next = Some(key);
                Some(request)
            }
            Err(error) => {
                tracing::error!(%error, "no certificate can be asked for");
                None
            }
        }
    }

    pub(super) fn answered(&self, response: wire::CertificateResponse) {
        if response.certificate_pem.is_empty() {
            tracing::warn!(
                error = response.error,
                "the node's certificate was not renewed"
            );
            return;
        }
        let mut present = self.lock();
        let Some(key) = present.next.take() else {
            return;
        };
        present.key = key.into_bytes();
        present.certificate = response.certificate_pem.into_bytes();
        if !response.ca_pem.is_empty() {
            present.ca = response.ca_pem.into_bytes();
        }
        tracing::info!("the node's certificate was renewed");
        self.keep(&present);
    }

    /// The CAs that count from now on; they came over a stream that the present ones vouch for.
    pub(super) fn trust(&self, ca_pem: &str) {
        let mut present = self.lock();
        let readable = CertificateDer::pem_slice_iter(ca_pem.as_bytes())
            .next()
            .is_some_and(|first| first.is_ok());
        if !readable || present.ca == ca_pem.as_bytes() {
            return;
        }
        present.ca = ca_pem.as_bytes().to_vec();
        // What was asked of another signer does not count.
        present.asked = None;
        tracing::info!("the cluster trusts other CAs than before");
        self.keep(&present);
        self.other_cas.notify_one();
    }

    fn keep(&self, present: &Present) {
        let Some(directory) = &self.directory else {
            return;
        };
        // The key before its certificate: what is read after a crash in between is refused, not mixed up.
        for (name, content) in [
            ("ca.crt", &present.ca),
            ("node.key", &present.key),
            ("node.crt", &present.certificate),
        ] {
            if let Err(error) = write(&directory.join(name), content) {
                tracing::error!(%error, name, "the node's identity was not written");
                return;
            }
        }
    }
}

fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

/// How long until a new certificate is to be asked for: at four fifths of the life of the present one, and at once
/// when it is not of the CA that signs now, or unreadable. Pure.
fn renew_in(certificate_pem: &[u8], ca_pem: &[u8], now: i64) -> Duration {
    let read = || {
        let der = CertificateDer::from_pem_slice(certificate_pem).ok()?;
        let ca = CertificateDer::from_pem_slice(ca_pem).ok()?;
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        let (_, ca) = X509Certificate::from_der(&ca).ok()?;
        certificate.verify_signature(Some(ca.public_key())).ok()?;
        let (from, to) = (
            certificate.validity().not_before.timestamp(),
            certificate.validity().not_after.timestamp(),
        );
        let due = from + (to - from) / 5 * 4;
        u64::try_from(due - now).ok()
    };
    Duration::from_secs(read().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rcgen::{BasicConstraints, IsCa, Issuer};

    use super::*;

    fn ca() -> (String, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        (pem, Issuer::new(params, key))
    }

    fn signed(csr: &str, issuer: &Issuer<'static, KeyPair>) -> String {
        let mut request = rcgen::CertificateSigningRequestParams::from_pem(csr).unwrap();
        request.params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        request.params.not_after = rcgen::date_time_ymd(2026, 1, 11);
        request.signed_by(issuer).unwrap().pem()
    }

    #[tokio::test]
    async fn a_new_certificate_and_key_take_the_place_of_the_old_ones() {
        let (ca_pem, issuer) = ca();
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::new(&ClientConfig {
            server: String::new(),
            node_name: "n1".to_owned(),
            ca_pem: ca_pem.clone().into_bytes(),
            certificate_pem: b"none yet".to_vec(),
            key_pem: b"old".to_vec(),
            identity_dir: Some(dir.path().to_owned()),
        });
        let csr = identity.request().await;
        let certificate_pem = signed(&csr, &issuer);
        identity.answered(wire::CertificateResponse {
            certificate_pem: certificate_pem.clone(),
            ca_pem: ca_pem.clone(),
            error: String::new(),
        });
        let (_, certificate, key) = identity.pem();
        assert_eq!(certificate, certificate_pem.as_bytes());
        assert_ne!(key, b"old");
        assert_eq!(std::fs::read(dir.path().join("node.key")).unwrap(), key);
        let (other, _) = ca();
        identity.trust("nonsense");
        identity.trust(&format!("{ca_pem}{other}"));
        assert!(identity.pem().0.ends_with(other.as_bytes()));
    }

    #[tokio::test(start_paused = true)]
    async fn another_signer_is_asked_for_a_certificate_at_once() {
        let (old, old_issuer) = ca();
        let identity = Identity::new(&ClientConfig {
            server: String::new(),
            node_name: "n1".to_owned(),
            ca_pem: old.clone().into_bytes(),
            certificate_pem: b"none yet".to_vec(),
            key_pem: b"old".to_vec(),
            identity_dir: None,
        });
        let answer = |csr: &str, issuer: &Issuer<'static, KeyPair>, ca: &str| {
            let mut request = rcgen::CertificateSigningRequestParams::from_pem(csr).unwrap();
            request.params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            request.params.not_after = rcgen::date_time_ymd(2099, 1, 1);
            identity.answered(wire::CertificateResponse {
                certificate_pem: request.signed_by(issuer).unwrap().pem(),
                ca_pem: ca.to_owned(),
                error: String::new(),
            });
        };
        answer(&identity.request().await, &old_issuer, &old);
        let started = tokio::time::Instant::now();
        let next = identity.request();
        tokio::pin!(next);
        let wait = Duration::from_secs(2);
        assert!(tokio::time::timeout(wait, &mut next).await.is_err());
        // A second CA is trusted: nothing to do. It signs: everything.
        let (new, new_issuer) = ca();
        identity.trust(&format!("{old}{new}"));
        assert!(tokio::time::timeout(wait, &mut next).await.is_err());
        identity.trust(&format!("{new}{old}"));
        let csr = tokio::time::timeout(wait, next).await.unwrap();
        answer(&csr, &new_issuer, &format!("{new}{old}"));
        assert!(started.elapsed() < Duration::from_secs(10));
        let next = identity.request();
        assert!(tokio::time::timeout(wait, next).await.is_err());
    }

    #[test]
    fn it_is_time_at_four_fifths_or_when_the_ca_has_changed() {
        let (ca_pem, issuer) = ca();
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        let certificate = signed(&csr.pem().unwrap(), &issuer);
        let begin = rcgen::date_time_ymd(2026, 1, 1).unix_timestamp();
        let wait = renew_in(certificate.as_bytes(), ca_pem.as_bytes(), begin);
        assert_eq!(wait, Duration::from_secs(8 * 24 * 3600));
        let late = begin + 9 * 24 * 3600;
        assert!(renew_in(certificate.as_bytes(), ca_pem.as_bytes(), late).is_zero());
        assert!(renew_in(certificate.as_bytes(), ca().0.as_bytes(), begin).is_zero());
    }
}
