//! The cluster's certificates: a CA made at first start, the serving certificate, the administrator's and the
//! nodes' client certificates.
//!
//! Keys are files of mode 0600 below `pki/`, written beside and renamed, so that a crash leaves the old or
//! the new one. A CA key that is lost is never replaced by a new one silently: everything that trusts the
//! old one would break.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::Digest as _;
use tokio_util::sync::CancellationToken;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::csr::SigningRequest;
use super::identity::{MASTERS, NODES};

pub(crate) mod front_proxy;
pub(crate) mod member;
pub(crate) mod rotation;
mod serving;
mod signing;

const CA_NAME: &str = "waggle-ca";
const CA_DAYS: i64 = 3650;
const LEAF_DAYS: i64 = 365;
/// A certificate with less than this left is made anew at start.
const RENEW_DAYS: i64 = 60;
const DAY: i64 = 24 * 3600;
/// How often a member that runs looks whether a certificate ends soon.
const LOOK_EVERY: Duration = Duration::from_secs(12 * 3600);

#[derive(Debug, thiserror::Error)]
pub(crate) enum PkiError {
    #[error("{path}: {source}")]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path}: {why}")]
    Content { path: PathBuf, why: String },
    #[error("certificate for {subject}: {source}")]
    Make {
        subject: String,
        source: rcgen::Error,
    },
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Certificate, key and CA with which a node introduces itself.
#[derive(Clone)]
pub struct NodeIdentity {
    pub ca_pem: String,
    pub certificate_pem: String,
    pub key_pem: String,
}

impl std::fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeIdentity").finish_non_exhaustive()
    }
}

/// A certificate and its key, PEM.
#[derive(Clone)]
struct Leaf {
    certificate: String,
    key: String,
}

/// Names and addresses of the serving certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sans {
    names: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
}

impl Sans {
    /// A name or an address.
    pub(crate) fn add(&mut self, text: &str) {
        match text.parse() {
            Ok(address) => {
                self.addresses.insert(address);
            }
            Err(_) => {
                self.names.insert(text.to_lowercase());
            }
        }
    }
}

/// The certificates of this member.
pub(crate) struct Pki {
    dir: PathBuf,
    sans: Sans,
    /// All CAs that are trusted; the first one signs.
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
    serving: Arc<serving::Serving>,
    admin: Leaf,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki").finish_non_exhaustive()
    }
}

/// Who a leaf certificate is for.
struct Subject<'a> {
    name: &'a str,
    organization: Option<&'a str>,
    sans: Option<&'a Sans>,
}

impl Pki {
    /// Reads what is below `dir`, makes what is missing or near its end.
    pub(crate) fn open(dir: &Path, sans: &Sans, now: jiff::Timestamp) -> Result<Self, PkiError> {
        create(dir)?;
        let (ca_pem, issuer) = open_ca(dir, now)?;
        let server = Subject {
            name: "kube-apiserver",
            organization: None,
            sans: Some(sans),
        };
        let admin = Subject {
            name: "kubernetes-admin",
            organization: Some(MASTERS),
            sans: None,
        };
        let server = open_leaf(dir, "server", &server, &ca_pem, &issuer, now)?;
        Ok(Self {
            dir: dir.to_owned(),
            sans: sans.clone(),
            serving: Arc::new(serving::Serving::new(&server, &ca_pem)?),
            admin: open_leaf(dir, "admin", &admin, &ca_pem, &issuer, now)?,
            ca_pem,
            issuer,
        })
    }

    /// Makes anew what is near its end, and serves with it; connections that are open go on.
    pub(crate) fn renew(&self, now: jiff::Timestamp) -> Result<(), PkiError> {
        let fresh = Self::open(&self.dir, &self.sans, now)?;
        self.serving.replace(&fresh.serving);
        Ok(())
    }

    /// Looks now and then whether certificates end soon.
    pub(crate) async fn keep_renewed(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if let Err(error) = self.renew(jiff::Timestamp::now()) {
                tracing::error!(%error, "certificates were not renewed");
            }
        }
    }

    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The same, for those who keep it.
    pub(crate) fn trusted_pem(&self) -> String {
        self.ca_pem.clone()
    }

    /// Digests of the CAs that are trusted, the signer first.
    pub(crate) fn authorities(&self) -> Result<Vec<String>, PkiError> {
        let path = Path::new("ca.crt");
        CertificateDer::pem_slice_iter(self.ca_pem.as_bytes())
            .map(|found| {
                let der = found.map_err(|error| content_error(path, error))?;
                Ok(format!(
                    "sha256:{}",
                    hex::encode(sha2::Sha256::digest(&der))
                ))
            })
            .collect()
    }

    /// `sha256:` and the digest of the public key of the CA that signs: what who joins the cluster pins.
    pub(crate) fn ca_hash(&self) -> Result<String, PkiError> {
        let path = Path::new("ca.crt");
        let der = certificate(path, &self.ca_pem)?;
        let parsed = parse(path, &der)?;
        let digest = sha2::Sha256::digest(parsed.public_key().raw);
        Ok(format!("sha256:{}", hex::encode(digest)))
    }

    /// The certificate that was asked for, PEM. `usages` are Kubernetes' names.
    pub(crate) fn sign(
        &self,
        request: &SigningRequest,
        usages: &[String],
        seconds: i64,
        now: jiff::Timestamp,
    ) -> Result<String, PkiError> {
        signing::sign(request, usages, seconds, now, &self.issuer)
    }

    /// Certificate and key of the administrator, PEM.
    pub(crate) fn admin(&self) -> (&str, &str) {
        (&self.admin.certificate, &self.admin.key)
    }

    /// A client certificate for the node of this name.
    pub(crate) fn issue_node(&self, name: &str) -> Result<NodeIdentity, PkiError> {
        node_identity(name, &self.ca_pem, &self.issuer, jiff::Timestamp::now())
    }

    /// A client certificate for anybody; tests play strangers with it.
    #[cfg(test)]
    pub(crate) fn issue_client(&self, name: &str, organization: Option<&str>) -> (String, String) {
        self.issue_client_at(name, organization, jiff::Timestamp::now())
    }

    #[cfg(test)]
    pub(crate) fn issue_client_at(
        &self,
        name: &str,
        organization: Option<&str>,
        now: jiff::Timestamp,
    ) -> (String, String) {
        let subject = Subject {
            name,
            organization,
            sans: None,
        };
        let leaf = make_leaf(&subject, &self.issuer, now);
        let leaf = leaf.expect("a test certificate");
        (leaf.certificate, leaf.key)
    }

    /// TLS for the API port: our certificate; client certificates of our CA if there are any.
    pub(crate) fn server_config(&self) -> Result<rustls::ServerConfig, PkiError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        for ca in CertificateDer::pem_slice_iter(self.ca_pem.as_bytes()) {
            roots.add(ca.map_err(|error| content_error(Path::new("ca.crt"), error))?)?;
        }
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots),
            provider.clone(),
        )
        .allow_unauthenticated()
        .build()
        .map_err(|error| content_error(Path::new("ca.crt"), error))?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(&self.serving) as Arc<_>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// A client certificate for the node of this name, by the CA below `dir`, which is made where there is none.
/// Nothing else there is touched, so that the member itself may run meanwhile.
pub(crate) fn issue_node(
    dir: &Path,
    name: &str,
    now: jiff::Timestamp,
) -> Result<NodeIdentity, PkiError> {
    create(dir)?;
    let (ca_pem, issuer) = open_ca(dir, now)?;
    node_identity(name, &ca_pem, &issuer, now)
}

fn node_identity(
    name: &str,
    ca_pem: &str,
    issuer: &Issuer<'static, KeyPair>,
    now: jiff::Timestamp,
) -> Result<NodeIdentity, PkiError> {
    let subject = Subject {
        name: &format!("system:node:{name}"),
        organization: Some(NODES),
        sans: None,
    };
    let leaf = make_leaf(&subject, issuer, now)?;
    Ok(NodeIdentity {
        ca_pem: ca_pem.to_owned(),
        certificate_pem: leaf.certificate,
        key_pem: leaf.key,
    })
}

fn create(dir: &Path) -> Result<(), PkiError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| file_error(dir, source))
}

fn open_ca(
    dir: &Path,
    now: jiff::Timestamp,
) -> Result<(String, Issuer<'static, KeyPair>), PkiError> {
    let (certificate_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
    let key = match (read(&key_path)?, certificate_path.exists()) {
        (Some(pem), _) => {
            KeyPair::from_pem(&pem).map_err(|error| content_error(&key_path, error))?
        }
        (None, true) => {
            let why = "missing, though the CA certificate is there; restore it, or remove the whole pki \
                       directory to make a new CA that no node knows";
            return Err(content_error(&key_path, why));
        }
        (None, false) => {
            let key = generate("the cluster CA")?;
            write(&key_path, &key.serialize_pem())?;
            key
        }
    };
    let pem = match read(&certificate_path)? {
        Some(pem) => pem,
        // A crash between key and certificate: the key has signed nothing yet.
        None => {
            let pem = make_ca(CA_NAME, &key, now)?;
            write(&certificate_path, &pem)?;
            pem
        }
    };
    let der = certificate(&certificate_path, &pem)?;
    let parsed = parse(&certificate_path, &der)?;
    if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Err(content_error(
            &certificate_path,
            "does not belong to ca.key",
        ));
    }
    if parsed.validity().not_after.timestamp() < now.as_second() {
        return Err(content_error(
            &certificate_path,
            "the cluster CA has expired",
        ));
    }
    let issuer = Issuer::from_ca_cert_pem(&pem, key)
        .map_err(|error| content_error(&certificate_path, error))?;
    Ok((pem, issuer))
}

fn open_leaf(
    dir: &Path,
    file: &str,
    subject: &Subject<'_>,
    ca_pem: &str,
    issuer: &Issuer<'static, KeyPair>,
    now: jiff::Timestamp,
) -> Result<Leaf, PkiError> {
    let certificate_path = dir.join(format!("{file}.crt"));
    let key_path = dir.join(format!("{file}.key"));
    if let (Some(pem), Some(key)) = (read(&certificate_path)?, read(&key_path)?)
        && still_good(&pem, &key, subject, ca_pem, now).unwrap_or(false)
    {
        return Ok(Leaf {
            certificate: pem,
            key,
        });
    }
    let leaf = make_leaf(subject, issuer, now)?;
    write(&key_path, &leaf.key)?;
    write(&certificate_path, &leaf.certificate)?;
    Ok(leaf)
}

/// `None` where certificate or key is unreadable: then a new pair is made.
fn still_good(
    pem: &str,
    key: &str,
    subject: &Subject<'_>,
    ca_pem: &str,
    now: jiff::Timestamp,
) -> Option<bool> {
    let key = KeyPair::from_pem(key).ok()?;
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let ca_der = CertificateDer::from_pem_slice(ca_pem.as_bytes()).ok()?;
    let (_, parsed) = X509Certificate::from_der(&der).ok()?;
    let (_, ca) = X509Certificate::from_der(&ca_der).ok()?;
    let belongs = parsed.public_key().subject_public_key.data.as_ref() == key.public_key_raw();
    let signed = parsed.verify_signature(Some(ca.public_key())).is_ok();
    let lasting = parsed.validity().not_after.timestamp() > now.as_second() + RENEW_DAYS * DAY;
    let named = subject
        .sans
        .is_none_or(|sans| sans_of(&parsed).as_ref() == Some(sans));
    Some(belongs && signed && lasting && named)
}

fn sans_of(certificate: &X509Certificate<'_>) -> Option<Sans> {
    let mut sans = Sans::default();
    let extension = certificate.subject_alternative_name().ok()??;
    for name in &extension.value.general_names {
        match name {
            GeneralName::DNSName(name) => sans.add(name),
            GeneralName::IPAddress(bytes) => {
                let address = match bytes.len() {
                    4 => IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?),
                    _ => IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?),
                };
                sans.addresses.insert(address);
            }
            _ => {}
        }
    }
    Some(sans)
}

fn generate(subject: &str) -> Result<KeyPair, PkiError> {
    KeyPair::generate().map_err(|source| make_error(subject, source))
}

fn params(
    name: &str,
    organization: Option<&str>,
    now: jiff::Timestamp,
    days: i64,
) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    if let Some(organization) = organization {
        subject.push(DnType::OrganizationName, organization);
    }
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    // Whole days, with one to spare for clocks that are behind ours.
    let (year, month, day) = date(now.as_second() - DAY);
    params.not_before = rcgen::date_time_ymd(year, month, day);
    let (year, month, day) = date(now.as_second() + days * DAY);
    params.not_after = rcgen::date_time_ymd(year, month, day);
    params.serial_number = Some(SerialNumber::from_slice(uuid::Uuid::new_v4().as_bytes()));
    params.use_authority_key_identifier_extension = true;
    params
}

/// Year, month and day in UTC.
fn date(seconds: i64) -> (i32, u8, u8) {
    let date = jiff::Timestamp::from_second(seconds)
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .to_zoned(jiff::tz::TimeZone::UTC);
    (
        i32::from(date.year()),
        date.month().unsigned_abs(),
        date.day().unsigned_abs(),
    )
}

fn make_ca(name: &str, key: &KeyPair, now: jiff::Timestamp) -> Result<String, PkiError> {
    let mut params = params(name, None, now, CA_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let certificate = params
        .self_signed(key)
        .map_err(|source| make_error(name, source))?;
    Ok(certificate.pem())
}

fn make_leaf(
    subject: &Subject<'_>,
    issuer: &Issuer<'static, KeyPair>,
    now: jiff::Timestamp,
) -> Result<Leaf, PkiError> {
    let failed = |source| make_error(subject.name, source);
    let mut params = params(subject.name, subject.organization, now, LEAF_DAYS);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    match subject.sans {
        Some(sans) => {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            for name in &sans.names {
                let name = name.as_str().try_into().map_err(failed)?;
                params.subject_alt_names.push(SanType::DnsName(name));
            }
            let addresses = sans
                .addresses
                .iter()
                .map(|address| SanType::IpAddress(*address));
            params.subject_alt_names.extend(addresses);
        }
        None => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
    }
    let key = generate(subject.name)?;
    let certificate = params.signed_by(&key, issuer).map_err(failed)?;
    Ok(Leaf {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

fn file_error(path: &Path, source: std::io::Error) -> PkiError {
    PkiError::File {
        path: path.to_owned(),
        source,
    }
}

fn content_error(path: &Path, why: impl std::fmt::Display) -> PkiError {
    PkiError::Content {
        path: path.to_owned(),
        why: why.to_string(),
    }
}

fn make_error(subject: &str, source: rcgen::Error) -> PkiError {
    PkiError::Make {
        subject: subject.to_owned(),
        source,
    }
}

fn certificate(path: &Path, pem: &str) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| content_error(path, error))
}

fn parse<'a>(path: &Path, der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, PkiError> {
    let (_, parsed) =
        X509Certificate::from_der(der.as_ref()).map_err(|error| content_error(path, error))?;
    Ok(parsed)
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(file_error(path, source)),
    }
}

/// Takes over a file that all members share.
pub(crate) fn write_shared(dir: &Path, name: &str, text: &str) -> Result<(), PkiError> {
    let plain = name.starts_with("ca") && !name.contains(['/', '\\']);
    if !plain {
        return Err(content_error(
            &dir.join("ca.crt"),
            "not a file that is shared",
        ));
    }
    create(dir)?;
    write(&dir.join(name), text)
}

/// Beside, synced, renamed: the file is the old or the new one, whole.
fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    let beside = path.with_extension("new");
    let result = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&beside, path))
        .and_then(|()| match path.parent() {
            Some(dir) => std::fs::File::open(dir)?.sync_all(),
            None => Ok(()),
        });
    result.map_err(|source| file_error(path, source))
}

#[cfg(test)]
mod tests;
