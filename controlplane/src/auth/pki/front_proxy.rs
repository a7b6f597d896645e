//! Who this server is to servers that extend the API: a client certificate of a CA that signs nothing else, so that
//! nobody who has a certificate of the cluster can say for whom a request is made.
//!
//! The CA is kept in the store, so that all members have the same. Extending servers read it, and what the headers are
//! called, from the ConfigMap `extension-apiserver-authentication`.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{Issuer, KeyPair};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    DAY, LEAF_DAYS, PkiError, RENEW_DAYS, Subject, certificate, content_error, generate, make_ca,
    make_leaf,
};
use crate::registry::{ApiError, Registry};
use crate::store::{Compare, Freshness, Op, Txn};

const KEPT_AT: &str = "/waggle/front-proxy-ca";
/// What extending servers expect the certificate to be for.
const NAME: &str = "front-proxy-client";

#[derive(Serialize, Deserialize)]
struct Stored {
    /// PEM
    certificate: String,
    /// PEM
    key: String,
}

pub(crate) struct FrontProxy {
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
    /// When it was made, seconds since the epoch.
    latest: Mutex<Option<(i64, Arc<CertifiedKey>)>>,
}

impl std::fmt::Debug for FrontProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrontProxy").finish_non_exhaustive()
    }
}

impl FrontProxy {
    /// Reads the CA, makes it where there is none. Of two members that do so at once one wins.
    pub(crate) async fn open(registry: &Registry) -> Result<Self, ApiError> {
        let store = registry.store();
        let failed = |error: PkiError| ApiError::internal(error);
        if store.get(KEPT_AT, Freshness::Linearizable).await?.is_none() {
            let made = made(jiff::Timestamp::now()).map_err(failed)?;
            let value = serde_json::to_vec(&made).map_err(ApiError::internal)?;
            let txn = Txn {
                compares: vec![Compare {
                    key: KEPT_AT.to_owned(),
                    mod_revision: 0,
                }],
                ops: vec![Op::Put {
                    key: KEPT_AT.to_owned(),
                    value: value.into(),
                }],
            };
            drop(store.txn(txn).await?);
        }
        let kept = store.get(KEPT_AT, Freshness::Linearizable).await?;
        let kept = kept.ok_or_else(|| ApiError::internal("there is no front-proxy CA"))?;
        let stored: Stored = serde_json::from_slice(&kept.value).map_err(ApiError::internal)?;
        Self::of(stored).map_err(failed)
    }

    fn of(stored: Stored) -> Result<Self, PkiError> {
        let path = Path::new(KEPT_AT);
        let key = KeyPair::from_pem(&stored.key).map_err(|error| content_error(path, error))?;
        let issuer = Issuer::from_ca_cert_pem(&stored.certificate, key)
            .map_err(|error| content_error(path, error))?;
        Ok(Self {
            ca_pem: stored.certificate,
            issuer,
            latest: Mutex::default(),
        })
    }

    /// The client certificate and its key; made anew when it is near its end.
    pub(crate) fn client(&self, now: jiff::Timestamp) -> Result<Arc<CertifiedKey>, PkiError> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let lasting = |made: i64| now.as_second() - made < (LEAF_DAYS - RENEW_DAYS) * DAY;
        if let Some((made, client)) = latest.as_ref()
            && lasting(*made)
        {
            return Ok(Arc::clone(client));
        }
        let subject = Subject {
            name: NAME,
            organization: None,
            sans: None,
        };
        let path = Path::new(NAME);
        let leaf = make_leaf(&subject, &self.issuer, now)?;
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes())
            .map_err(|error| content_error(path, error))?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key)
            .map_err(|error| content_error(path, error))?;
        let chain = vec![certificate(path, &leaf.certificate)?];
        let client = Arc::new(CertifiedKey::new(chain, key));
        *latest = Some((now.as_second(), Arc::clone(&client)));
        Ok(client)
    }

    /// What the ConfigMap `extension-apiserver-authentication` has; `client_ca` signs the clients of this server.
    pub(crate) fn published(&self, client_ca: &str) -> Value {
        let list = |name: &str| json!([name]).to_string();
        json!({
            "client-ca-file": client_ca,
            "requestheader-client-ca-file": self.ca_pem,
            "requestheader-allowed-names": list(NAME),
            "requestheader-username-headers": list("X-Remote-User"),
            "requestheader-uid-headers": list("X-Remote-Uid"),
            "requestheader-group-headers": list("X-Remote-Group"),
            "requestheader-extra-headers-prefix": list("X-Remote-Extra-"),
        })
    }
}

fn made(now: jiff::Timestamp) -> Result<Stored, PkiError> {
    let key = generate("the front-proxy CA")?;
    Ok(Stored {
        certificate: make_ca("front-proxy-ca", &key, now)?,
        key: key.serialize_pem(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;

    #[test]
    fn the_certificate_is_kept_until_it_is_near_its_end() {
        let start = jiff::Timestamp::from_second(1_800_000_000).unwrap();
        let proxy = FrontProxy::of(made(start).unwrap()).unwrap();
        let at = |days: i64| {
            let then = jiff::Timestamp::from_second(start.as_second() + days * DAY).unwrap();
            proxy.client(then).unwrap().cert[0].to_vec()
        };
        let first = at(0);
        assert_eq!(at(300), first);
        let second = at(310);
        assert_ne!(second, first);
        let (_, leaf) = X509Certificate::from_der(&second).unwrap();
        let ca = certificate(Path::new("ca"), &proxy.ca_pem).unwrap();
        let (_, ca) = X509Certificate::from_der(&ca).unwrap();
        assert!(leaf.verify_signature(Some(ca.public_key())).is_ok());
        assert_eq!(leaf.subject().to_string(), "CN=front-proxy-client");
    }
}
