//! How what is not a member of the cluster yet becomes one: the cluster's CA is recognized by its hash, a token
//! says that one may ask, and what is got is a certificate. The key is made here and never leaves.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec,
};
use kube::api::{Api, ObjectMeta, PostParams};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use sha2::Digest as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const CONNECT: Duration = Duration::from_secs(10);
/// How long an administrator has to approve what is not approved by itself.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Files that together are an identity.
pub(crate) const CA: &str = "ca.crt";
pub(crate) const CERTIFICATE: &str = "node.crt";
pub(crate) const KEY: &str = "node.key";

/// The same for everything that joins.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct JoinArguments {
    /// Join the cluster at this address, https://host:port, where there is no identity yet.
    #[arg(long, value_name = "URL", requires = "token", requires = "ca_hash")]
    pub(crate) join: Option<String>,
    /// Token to join with (`waggle token create`).
    #[arg(
        long,
        value_name = "ID.SECRET",
        env = "WAGGLE_TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
    /// Hash of the public key of the cluster's CA; given twice, either is accepted.
    #[arg(long, value_name = "sha256:HEX")]
    ca_hash: Vec<String>,
}

/// `sha256:` and the digest of the certificate's public key.
pub(crate) fn hash_of(der: &[u8]) -> anyhow::Result<String> {
    let (_, certificate) = X509Certificate::from_der(der).context("a certificate")?;
    let digest = sha2::Sha256::digest(certificate.public_key().raw);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("sha256:{hex}"))
}

/// Makes sure that `directory` has the identity of this node, by joining where it has none.
pub(crate) async fn ensure_identity(
    arguments: &JoinArguments,
    directory: &Path,
    node_name: &str,
) -> anyhow::Result<()> {
    let Some(server) = &arguments.join else {
        return Ok(());
    };
    if [CA, CERTIFICATE, KEY]
        .iter()
        .all(|file| directory.join(file).exists())
    {
        tracing::info!("there is an identity already; the token is not used");
        return Ok(());
    }
    let token = arguments.token.as_deref().context("--token is missing")?;
    let ca = pinned_ca(server, &arguments.ca_hash).await?;
    let (certificate, key) = certificate(server, token, &ca, node_name).await?;
    std::fs::create_dir_all(directory)
        .with_context(|| format!("create {}", directory.display()))?;
    for (file, content) in [(CA, &ca), (KEY, &key), (CERTIFICATE, &certificate)] {
        crate::files::write_private(&directory.join(file), content.as_bytes())?;
    }
    tracing::info!(server, node_name, "joined the cluster");
    Ok(())
}

/// Asks a member to make this machine a member too.
pub(crate) async fn admission(
    arguments: &JoinArguments,
    request: &controlplane::JoinRequest,
) -> anyhow::Result<controlplane::Admission> {
    let server = arguments.join.as_deref().context("--join is missing")?;
    let token = arguments.token.as_deref().context("--token is missing")?;
    let ca = pinned_ca(server, &arguments.ca_hash).await?;
    let mut config = kube::Config::new(server.parse()?);
    config.root_cert = Some(
        rustls::pki_types::pem::PemObject::pem_slice_iter(ca.as_bytes())
            .map(|der: Result<CertificateDer<'_>, _>| der.map(|der| der.to_vec()))
            .collect::<Result<_, _>>()?,
    );
    config.auth_info.token = Some(token.to_owned().into());
    let client = kube::Client::try_from(config)?;
    let body = serde_json::to_vec(request)?;
    let request = http::Request::post("/waggle/v1/members").body(body)?;
    client
        .request(request)
        .await
        .with_context(|| format!("ask {server} to be a member"))
}

/// The CA, PEM, that the server shows and whose hash was given.
async fn pinned_ca(server: &str, hashes: &[String]) -> anyhow::Result<String> {
    let shown = shown_chain(server)
        .await
        .with_context(|| format!("connect to {server}"))?;
    let wanted: Vec<String> = hashes.iter().map(|hash| hash.to_lowercase()).collect();
    for der in shown.iter().skip(1) {
        if wanted.contains(&hash_of(der)?) {
            return Ok(pem(der));
        }
    }
    bail!(
        "{server} is not the cluster with the CA {}: it shows {}",
        wanted.join(" or "),
        shown
            .last()
            .map_or_else(|| Ok("nothing".to_owned()), |der| hash_of(der))?
    )
}

fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

/// Notes what the server shows, and believes it: nothing is sent to it, and the hash is looked at afterwards.
#[derive(Debug)]
struct Note(Mutex<Vec<CertificateDer<'static>>>);

impl ServerCertVerifier for Note {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let all = std::iter::once(leaf).chain(others);
        *self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) =
            all.map(|der| der.clone().into_owned()).collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

async fn shown_chain(server: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let uri: http::Uri = server.parse()?;
    ensure!(
        uri.scheme_str() == Some("https"),
        "{server} does not begin with https://"
    );
    let host = uri.host().context("it has no host")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(443);
    let note = Arc::new(Note(Mutex::default()));
    let config = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&note) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned())?;
    let handshake = async {
        let stream = tokio::net::TcpStream::connect((host, port)).await?;
        tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    };
    tokio::time::timeout(CONNECT, handshake)
        .await
        .context("it did not answer in time")??;
    let shown = note
        .0
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .clone();
    Ok(shown)
}

/// Certificate and key of the node, PEM.
async fn certificate(
    server: &str,
    token: &str,
    ca_pem: &str,
    node_name: &str,
) -> anyhow::Result<(String, String)> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::default();
    let mut subject = rcgen::DistinguishedName::new();
    subject.push(rcgen::DnType::OrganizationName, "system:nodes");
    subject.push(
        rcgen::DnType::CommonName,
        format!("system:node:{node_name}"),
    );
    params.distinguished_name = subject;
    let request = params.serialize_request(&key)?.pem()?;

    let mut config = kube::Config::new(server.parse()?);
    config.root_cert = Some(
        rustls::pki_types::pem::PemObject::pem_slice_iter(ca_pem.as_bytes())
            .map(|der: Result<CertificateDer<'_>, _>| der.map(|der| der.to_vec()))
            .collect::<Result<_, _>>()?,
    );
    config.auth_info.token = Some(token.to_owned().into());
    let requests: Api<CertificateSigningRequest> = Api::all(kube::Client::try_from(config)?);
    let wanted = CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some("node-csr-".to_owned()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.into_bytes()),
            signer_name: SIGNER.to_owned(),
            usages: Some(vec![
                "digital signature".to_owned(),
                "client auth".to_owned(),
            ]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let made = requests
        .create(&PostParams::default(), &wanted)
        .await
        .context("ask for a certificate")?;
    let name = made.metadata.name.context("the request has no name")?;
    tracing::info!(request = name, "asked for a certificate");
    let signed = async {
        loop {
            let status = requests.get(&name).await?.status.unwrap_or_default();
            if let Some(certificate) = status.certificate {
                return anyhow::Ok(String::from_utf8(certificate.0)?);
            }
            for condition in status.conditions.iter().flatten() {
                let why = condition.message.as_deref().unwrap_or_default();
                ensure!(
                    condition.type_ == "Approved",
                    "the request {name} was answered with {}: {why}",
                    condition.type_
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let certificate = tokio::time::timeout(PATIENCE, signed)
        .await
        .with_context(|| {
            format!("nobody has approved the request {name} (`kubectl certificate approve {name}`)")
        })??;
    Ok((certificate, key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_certificate_is_known_by_its_key_and_written_as_pem() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default()
            .self_signed(&key)
            .unwrap();
        let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
        let hex: String = sha2::Sha256::digest(spki)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hash_of(certificate.der()).unwrap(), format!("sha256:{hex}"));
        let text = pem(certificate.der());
        let back: CertificateDer<'_> =
            rustls::pki_types::pem::PemObject::from_pem_slice(text.as_bytes()).unwrap();
        assert_eq!(&back, certificate.der());
    }
}
