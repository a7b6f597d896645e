//! The certificate with which a member of the control plane introduces itself to the others, and how it knows
//! theirs. It bears a name that no other certificate bears, for both directions: neither a node's nor the
//! administrator's certificate opens the peers' port.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rcgen::{ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    DAY, LEAF_DAYS, Leaf, PkiError, RENEW_DAYS, content_error, create, generate, make_error,
    open_ca, params, parse, read, write,
};

/// In every member's certificate, and in no other.
const NAME: &str = "member.waggle";
const ORGANIZATION: &str = "waggle:members";
const FILE: &str = "member";

/// TLS between members.
#[derive(Debug, Clone)]
pub(crate) struct MemberTls {
    pub(crate) server: Arc<rustls::ServerConfig>,
    pub(crate) client: Arc<rustls::ClientConfig>,
    pub(crate) name: ServerName<'static>,
    presented: Arc<Presented>,
    dir: PathBuf,
    id: u64,
}

/// The certificate that is shown at both ends of a connection. Replaced when it is near its end.
#[derive(Debug)]
struct Presented(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Presented {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl ResolvesClientCert for Presented {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl MemberTls {
    /// Reads the member's certificate below `dir`, or makes it.
    pub(crate) fn open(dir: &Path, id: u64, now: jiff::Timestamp) -> Result<Self, PkiError> {
        create(dir)?;
        let (ca_pem, issuer) = open_ca(dir, now)?;
        let leaf = open_member(dir, id, &ca_pem, &issuer, now)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let presented = Arc::new(Presented(ArcSwap::from_pointee(certified(
            &leaf, &ca_pem, &provider,
        )?)));
        let mut roots = rustls::RootCertStore::empty();
        for ca in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            roots.add(ca.map_err(|error| content_error(&dir.join("ca.crt"), error))?)?;
        }
        let roots = Arc::new(roots);
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::clone(&roots),
            Arc::clone(&provider),
        )
        .build()
        .map_err(|error| content_error(&dir.join("ca.crt"), error))?;
        let mut server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(&presented) as Arc<_>);
        server.alpn_protocols = vec![b"h2".to_vec()];
        let mut client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::clone(&presented) as Arc<_>);
        client.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            server: Arc::new(server),
            client: Arc::new(client),
            name: ServerName::try_from(NAME).expect("it is a DNS name"),
            presented,
            dir: dir.to_owned(),
            id,
        })
    }

    /// Makes the certificate anew where it is near its end.
    pub(crate) fn renew(&self, now: jiff::Timestamp) -> Result<(), PkiError> {
        let (ca_pem, issuer) = open_ca(&self.dir, now)?;
        let leaf = open_member(&self.dir, self.id, &ca_pem, &issuer, now)?;
        let provider = rustls::crypto::ring::default_provider();
        let fresh = certified(&leaf, &ca_pem, &provider)?;
        self.presented.0.store(Arc::new(fresh));
        Ok(())
    }
}

/// Whether a certificate that TLS has verified is a member's.
pub(crate) fn is_member(der: &[u8]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return false;
    };
    let organizations = certificate.subject().iter_organization();
    let of_members = organizations
        .filter_map(|organization| organization.as_str().ok())
        .any(|organization| organization == ORGANIZATION);
    let names = certificate.subject_alternative_name().ok().flatten();
    let named = names.is_some_and(|names| {
        let names = &names.value.general_names;
        names
            .iter()
            .any(|name| matches!(name, GeneralName::DNSName(name) if *name == NAME))
    });
    of_members && named
}

fn certified(
    leaf: &Leaf,
    ca_pem: &str,
    provider: &rustls::crypto::CryptoProvider,
) -> Result<CertifiedKey, PkiError> {
    let place = Path::new("member.crt");
    let chain = [leaf.certificate.as_str(), ca_pem]
        .into_iter()
        .flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| content_error(place, error))?;
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes())
        .map_err(|error| content_error(Path::new("member.key"), error))?;
    let key = provider.key_provider.load_private_key(key)?;
    Ok(CertifiedKey::new(chain, key))
}

fn open_member(
    dir: &Path,
    id: u64,
    ca_pem: &str,
    issuer: &Issuer<'static, KeyPair>,
    now: jiff::Timestamp,
) -> Result<Leaf, PkiError> {
    let certificate_path = dir.join(format!("{FILE}.crt"));
    let key_path = dir.join(format!("{FILE}.key"));
    if let (Some(certificate), Some(key)) = (read(&certificate_path)?, read(&key_path)?)
        && still_good(&certificate, &key, id, ca_pem, now).unwrap_or(false)
    {
        return Ok(Leaf { certificate, key });
    }
    let leaf = make(id, issuer, now)?;
    write(&key_path, &leaf.key)?;
    write(&certificate_path, &leaf.certificate)?;
    Ok(leaf)
}

fn subject(id: u64) -> String {
    format!("waggle:member:{id}")
}

/// `None` where certificate or key is unreadable: then a new pair is made.
fn still_good(pem: &str, key: &str, id: u64, ca_pem: &str, now: jiff::Timestamp) -> Option<bool> {
    let key = KeyPair::from_pem(key).ok()?;
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let ca_der = CertificateDer::from_pem_slice(ca_pem.as_bytes()).ok()?;
    let parsed = parse(Path::new("member.crt"), &der).ok()?;
    let ca = parse(Path::new("ca.crt"), &ca_der).ok()?;
    let belongs = parsed.public_key().subject_public_key.data.as_ref() == key.public_key_raw();
    let signed = parsed.verify_signature(Some(ca.public_key())).is_ok();
    let lasting = parsed.validity().not_after.timestamp() > now.as_second() + RENEW_DAYS * DAY;
    let named = parsed.subject().iter_common_name().next()?.as_str().ok()? == subject(id);
    Some(belongs && signed && lasting && named && is_member(&der))
}

fn make(
    id: u64,
    issuer: &Issuer<'static, KeyPair>,
    now: jiff::Timestamp,
) -> Result<Leaf, PkiError> {
    let name = subject(id);
    let failed = |source| make_error(&name, source);
    let mut params = params(&name, Some(ORGANIZATION), now, LEAF_DAYS);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let alternative = NAME.try_into().map_err(failed)?;
    params.subject_alt_names = vec![SanType::DnsName(alternative)];
    let key = generate(&name)?;
    let certificate = params.signed_by(&key, issuer).map_err(failed)?;
    Ok(Leaf {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::{Pki, Sans};
    use super::*;

    fn now() -> jiff::Timestamp {
        "2026-05-05T10:00:00Z".parse().unwrap()
    }

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    #[test]
    fn a_members_certificate_is_kept_and_nobody_elses_is_taken_for_one() {
        let dir = tempfile::tempdir().unwrap();
        MemberTls::open(dir.path(), 3, now()).unwrap();
        let first = read(&dir.path().join("member.crt")).unwrap().unwrap();
        assert!(is_member(&der(&first)));
        let again = MemberTls::open(dir.path(), 3, now()).unwrap();
        assert_eq!(
            read(&dir.path().join("member.crt")).unwrap().unwrap(),
            first
        );
        let late = jiff::Timestamp::from_second(now().as_second() + 340 * DAY).unwrap();
        again.renew(late).unwrap();
        assert_ne!(
            read(&dir.path().join("member.crt")).unwrap().unwrap(),
            first
        );

        let pki = Pki::open(dir.path(), &Sans::default(), now()).unwrap();
        let node = pki.issue_node("n").unwrap();
        assert!(!is_member(&der(&node.certificate_pem)));
        assert!(!is_member(&der(pki.admin().0)));
        let (impostor, _) = pki.issue_client("waggle:member:3", Some(ORGANIZATION));
        assert!(!is_member(&der(&impostor)));
        assert!(!is_member(b"nonsense"));
    }
}
