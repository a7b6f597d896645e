//! Talking to one registry about one image, with what goes wrong said in [`ImageError`]'s terms.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol};
use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;

use super::Credentials;
use super::digest::Digest;
use super::disk::{BlobWriter, Disk};
use super::error::ImageError;
use super::manifest::{self, Descriptor};
use super::reference::Reference;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Without a byte for so long, a transfer is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A transfer that breaks off is resumed so often.
const MOST_RESUMPTIONS: u32 = 5;

/// The client library reads a manifest whole: this bounds one that never ends.
const MANIFEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A client for one image; credentials are not kept beyond it.
pub(super) struct Registry {
    client: oci_client::Client,
    auth: RegistryAuth,
    reference: Reference,
    shown: String,
}

impl Registry {
    pub(super) fn new(
        reference: &Reference,
        credentials: Option<&Credentials>,
        insecure: &[String],
    ) -> Result<Self, ImageError> {
        let plain = reference.is_loopback() || insecure.contains(&reference.registry);
        let config = ClientConfig {
            protocol: if plain {
                ClientProtocol::Http
            } else {
                ClientProtocol::Https
            },
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(STALL_TIMEOUT),
            user_agent: concat!("waggle/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let shown = reference.to_string();
        let client = oci_client::Client::try_from(config)
            .map_err(|e| unavailable(&shown, reference, chain(&e)))?;
        let auth = credentials.map_or(RegistryAuth::Anonymous, |c| {
            RegistryAuth::Basic(c.username.clone(), c.password.clone())
        });
        Ok(Self {
            client,
            auth,
            reference: reference.clone(),
            shown,
        })
    }

    /// The manifest or index that the reference, or `digest` in its repository, stands for.
    pub(super) async fn manifest(
        &self,
        digest: Option<&Digest>,
    ) -> Result<(Bytes, Digest), ImageError> {
        let types = [
            manifest::OCI_INDEX,
            manifest::OCI_MANIFEST,
            manifest::DOCKER_LIST,
            manifest::DOCKER_MANIFEST,
        ];
        let wanted = digest.or(self.reference.digest.as_ref());
        let target = self.target(wanted);
        let pull = self.client.pull_manifest_raw(&target, &self.auth, &types);
        let pulled = tokio::time::timeout(MANIFEST_TIMEOUT, pull).await;
        let (bytes, _) = match pulled {
            Ok(pulled) => pulled.map_err(|e| self.explain(e))?,
            Err(_) => {
                let detail = "its manifest did not arrive in time".to_owned();
                return Err(unavailable(&self.shown, &self.reference, detail));
            }
        };
        if bytes.len() as u64 > manifest::MAX_MANIFEST_BYTES {
            return Err(ImageError::invalid(
                &self.shown,
                "its manifest is too large",
            ));
        }
        // Never take the registry's word for what it sent.
        let actual = Digest::of(&bytes);
        match wanted {
            Some(expected) if *expected != actual => Err(ImageError::DigestMismatch {
                reference: self.shown.clone(),
                expected: expected.to_string(),
                actual: actual.to_string(),
            }),
            _ => Ok((bytes, actual)),
        }
    }

    /// Stores a blob unless it is there. What does not match its descriptor is not stored.
    pub(super) async fn blob(&self, disk: &Disk, wanted: &Descriptor) -> Result<(), ImageError> {
        if disk.has_blob(&wanted.digest, wanted.size) {
            return Ok(());
        }
        let mut writer = BlobWriter::new(disk)?;
        let mut resumed = 0;
        loop {
            let before = writer.written();
            match self.fetch(disk, &mut writer, wanted).await {
                Ok(()) => break,
                // A transfer that got on is gone on with from where it broke off.
                Err(error @ ImageError::RegistryUnavailable { .. })
                    if writer.written() > before && resumed < MOST_RESUMPTIONS =>
                {
                    tracing::debug!(image = %self.shown, %error, at = writer.written(), "resuming");
                    resumed += 1;
                }
                Err(error) => return Err(error),
            }
        }
        writer.finish(&self.shown, Some((&wanted.digest, wanted.size)))?;
        Ok(())
    }

    /// What is missing of a blob, into `writer`.
    async fn fetch<'a>(
        &self,
        disk: &'a Disk,
        writer: &mut BlobWriter<'a>,
        wanted: &Descriptor,
    ) -> Result<(), ImageError> {
        let digest = wanted.digest.to_string();
        let target = self.target(None);
        let mut stream = if writer.written() == 0 {
            let pulled = self.client.pull_blob_stream(&target, digest.as_str());
            pulled.await.map_err(|e| self.explain(e))?.stream
        } else {
            let from = writer.written();
            let client = &self.client;
            let pulled = client.pull_blob_stream_partial(&target, digest.as_str(), from, None);
            match pulled.await.map_err(|e| self.explain(e))? {
                BlobResponse::Partial(sized) => sized.stream,
                // The registry knows no parts: from the beginning.
                BlobResponse::Full(sized) => {
                    *writer = BlobWriter::new(disk)?;
                    sized.stream
                }
            }
        };
        while let Some(chunk) = stream.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                // The stream's own check of the digest comes after the last byte; ours says more.
                Err(e) if e.get_ref().is_some_and(|inner| inner.is::<DigestError>()) => break,
                Err(e) => return Err(unavailable(&self.shown, &self.reference, chain(&e))),
            };
            if writer.written() + chunk.len() as u64 > wanted.size {
                return Err(ImageError::SizeMismatch {
                    reference: self.shown.clone(),
                    digest,
                    expected: wanted.size,
                    actual: writer.written() + chunk.len() as u64,
                });
            }
            writer.write(&chunk)?;
        }
        Ok(())
    }

    fn target(&self, digest: Option<&Digest>) -> oci_client::Reference {
        let r = &self.reference;
        let (registry, repository) = (r.registry.clone(), r.repository.clone());
        match (digest, &r.tag) {
            (Some(digest), _) => {
                oci_client::Reference::with_digest(registry, repository, digest.to_string())
            }
            (None, tag) => {
                let tag = tag.clone().unwrap_or_else(|| "latest".to_owned());
                oci_client::Reference::with_tag(registry, repository, tag)
            }
        }
    }

    fn explain(&self, error: OciDistributionError) -> ImageError {
        explain(&self.shown, &self.reference, error)
    }
}

fn unavailable(shown: &str, reference: &Reference, detail: String) -> ImageError {
    ImageError::RegistryUnavailable {
        reference: shown.to_owned(),
        registry: reference.registry.clone(),
        detail,
    }
}

/// What the registry, or the way to it, said.
fn explain(shown: &str, at: &Reference, error: OciDistributionError) -> ImageError {
    use OciDistributionError as E;
    let (reference, registry) = (shown.to_owned(), at.registry.clone());
    let not_found = || ImageError::NotFound {
        reference: reference.clone(),
        registry: registry.clone(),
    };
    let unauthorized = |detail: String| ImageError::Unauthorized {
        reference: reference.clone(),
        registry: registry.clone(),
        detail,
    };
    match error {
        E::ImageManifestNotFoundError(_) => not_found(),
        E::UnauthorizedError { .. } => unauthorized("authentication required".into()),
        E::AuthenticationFailure(detail) => unauthorized(short(&detail)),
        E::RegistryError { envelope, .. } => {
            use OciErrorCode::{
                BlobUnknown, Denied, ManifestBlobUnknown, ManifestUnknown, NameUnknown, NotFound,
                Unauthorized,
            };
            let detail = short(&envelope.to_string());
            match envelope.errors.first().map(|e| &e.code) {
                Some(
                    ManifestUnknown | NameUnknown | NotFound | BlobUnknown | ManifestBlobUnknown,
                ) => not_found(),
                Some(Unauthorized | Denied) => unauthorized(detail),
                _ => ImageError::Registry {
                    reference,
                    registry,
                    detail,
                },
            }
        }
        E::ServerError { code: 404, .. } => not_found(),
        E::ServerError {
            code: 401 | 403,
            message,
            ..
        } => unauthorized(short(&message)),
        E::ServerError { code, message, .. } if code >= 500 => {
            unavailable(shown, at, short(&format!("status {code}: {message}")))
        }
        E::DigestError(DigestError::VerificationError { expected, actual }) => {
            ImageError::DigestMismatch {
                reference,
                expected,
                actual,
            }
        }
        error @ (E::RequestError(_) | E::IoError(_)) => unavailable(shown, at, chain(&error)),
        other => ImageError::Registry {
            reference,
            registry,
            detail: short(&other.to_string()),
        },
    }
}

/// The error with its causes: the outermost alone often says only that a request failed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    short(&text)
}

/// What a registry says goes into a pod's status: one line, bounded.
fn short(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .take(300)
        .collect()
}
