//! Bearer tokens: those of service accounts, signed by the cluster, and bootstrap tokens, which are Secrets.
//!
//! `token/claims` says what a signed token means (pure), `token/keys` holds the signing keys, `token/bootstrap`
//! judges bootstrap tokens (pure), `token/request` gives tokens out. Here: the keys as the store has them, and
//! whether what a token names still exists.
//!
//! Deliberately not here: HTTP, and whether somebody may ask for a token.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::identity::User;
use crate::kinds;
use crate::registry::{ApiError, Registry, object};
use crate::store::{Compare, Freshness, Op, Txn, TxnOutcome};

pub(crate) mod bootstrap;
mod claims;
mod keys;
mod request;

use claims::{Bound, Claims, LEGACY_ISSUER, Reference};
pub(crate) use claims::{TokenError, groups, username};
use keys::{KeySet, StoredKeys};
pub(crate) use request::Wanted;

/// Where the store has the signing keys.
const KEYS: &str = "/waggle/service-account-keys";
/// The longest that a token lives unless somebody asks for more: how long a replaced key still verifies.
const KEEP_KEYS: i64 = 366 * 24 * 3600;
/// Tokens whose signature was found good and need not be computed again.
const SEEN: usize = 4096;
const RETRY: Duration = Duration::from_secs(1);
/// An account or a pod that is being deleted ends its tokens after this.
const LEAVING: i64 = 60;

/// How the cluster signs tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenConfig {
    /// `iss` of service-account tokens; `https://kubernetes.default.svc.<cluster domain>` when empty.
    pub issuer: String,
    /// What the API calls itself in `aud`; the issuer when empty.
    pub audiences: Vec<String>,
    /// Longest life of a token in seconds, whatever is asked for; 0 is no limit.
    pub max_expiration: i64,
}

/// Who has presented a token, and for which of the wanted audiences it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authenticated {
    pub(crate) user: User,
    pub(crate) audiences: Vec<String>,
}

/// Gives out and judges tokens; a cheap handle.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    config: TokenConfig,
    keys: ArcSwap<KeySet>,
    /// By the token's digest. A token whose key was removed is not in it: the keys' change empties it.
    seen: Mutex<HashMap<[u8; 32], Claims>>,
}

/// What is read of an object that a token names.
#[derive(Deserialize)]
struct Named {
    metadata: NamedMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NamedMeta {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    deletion_timestamp: Option<jiff::Timestamp>,
}

impl Tokens {
    /// Reads the signing keys, makes the first one where there is none.
    pub(crate) async fn open(
        registry: &Registry,
        mut config: TokenConfig,
        cluster_domain: &str,
    ) -> Result<Self, ApiError> {
        if config.issuer.is_empty() {
            config.issuer = format!("https://kubernetes.default.svc.{cluster_domain}");
        }
        if config.audiences.is_empty() {
            config.audiences = vec![config.issuer.clone()];
        }
        let tokens = Self {
            inner: Arc::new(Inner {
                registry: registry.clone(),
                config,
                keys: ArcSwap::from_pointee(KeySet::default()),
                seen: Mutex::default(),
            }),
        };
        if tokens.stored().await?.is_none() {
            tokens.rotate_from(None).await?;
        }
        tokens.reload().await?;
        Ok(tokens)
    }

    pub(crate) fn issuer(&self) -> &str {
        &self.inner.config.issuer
    }

    /// What the API calls itself in tokens.
    pub(crate) fn audiences(&self) -> &[String] {
        &self.inner.config.audiences
    }

    /// The public keys, as `/openid/v1/jwks` serves them.
    pub(crate) fn jwks(&self) -> Value {
        self.inner.keys.load().jwks()
    }

    async fn stored(&self) -> Result<Option<(StoredKeys, u64)>, ApiError> {
        let store = self.inner.registry.store();
        match store.get(KEYS, Freshness::Linearizable).await? {
            None => Ok(None),
            Some(kv) => {
                let keys = StoredKeys::parse(&kv.value).map_err(ApiError::internal)?;
                Ok(Some((keys, kv.mod_revision)))
            }
        }
    }

    async fn reload(&self) -> Result<(), ApiError> {
        let Some((stored, _)) = self.stored().await? else {
            return Err(ApiError::internal("there are no signing keys"));
        };
        let keys = KeySet::of(&stored).map_err(ApiError::internal)?;
        self.inner.keys.store(Arc::new(keys));
        self.seen().clear();
        Ok(())
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], Claims>> {
        self.inner
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A new key signs from now on; tokens of the old ones stay good for as long as they live.
    pub(crate) async fn rotate(&self) -> Result<(), ApiError> {
        let stored = self.stored().await?;
        self.rotate_from(stored).await?;
        self.reload().await
    }

    /// Of two members that do this at once one wins, and both go on with its keys.
    async fn rotate_from(&self, stored: Option<(StoredKeys, u64)>) -> Result<(), ApiError> {
        let (keys, mod_revision) = stored.unwrap_or_default();
        let now = jiff::Timestamp::now().as_second();
        let keys = keys.rotated(now, KEEP_KEYS).map_err(ApiError::internal)?;
        let txn = Txn {
            compares: vec![Compare {
                key: KEYS.to_owned(),
                mod_revision,
            }],
            ops: vec![Op::Put {
                key: KEYS.to_owned(),
                value: keys.encode().into(),
            }],
        };
        match self.inner.registry.store().txn(txn).await? {
            TxnOutcome::Committed { .. } | TxnOutcome::Conflict { .. } => Ok(()),
        }
    }

    /// Follows the keys, which another member may have changed, until `stop`.
    pub(crate) async fn follow(self, stop: CancellationToken) {
        let changed = async {
            let store = self.inner.registry.store();
            loop {
                let watched = store.watch(KEYS, store.revision());
                if let Err(error) = self.reload().await {
                    tracing::debug!(%error, "the signing keys were not read");
                }
                if let Ok(mut watch) = watched {
                    while watch.next().await.is_ok() {
                        if let Err(error) = self.reload().await {
                            tracing::warn!(%error, "the signing keys were not read");
                        }
                    }
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        tokio::select! { () = changed => {}, () = stop.cancelled() => {} }
    }

    /// Who presents this token to a service with one of these names.
    pub(crate) async fn authenticate(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Authenticated, TokenError> {
        if let Some(parts) = bootstrap::parse(token) {
            // It is for the API alone.
            let own: Vec<String> = self.own(audiences);
            if own.is_empty() {
                return Err(TokenError::Bootstrap);
            }
            return Ok(Authenticated {
                user: self.bootstrap(parts).await?,
                audiences: own,
            });
        }
        let claims = self.verified(token)?;
        let now = jiff::Timestamp::now().as_second();
        let bound = claims::check(&claims, self.issuer(), audiences, now)?;
        self.still_there(&bound, token, now).await?;
        Ok(Authenticated {
            user: bound.user(),
            audiences: match bound.legacy {
                true => self.own(audiences),
                false => bound.audiences,
            },
        })
    }

    fn own(&self, audiences: &[String]) -> Vec<String> {
        let own = audiences
            .iter()
            .filter(|name| self.audiences().contains(name));
        own.cloned().collect()
    }

    fn verified(&self, token: &str) -> Result<Claims, TokenError> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some(claims) = self.seen().get(&digest) {
            return Ok(claims.clone());
        }
        let claims = self.inner.keys.load().verify(token)?;
        let mut seen = self.seen();
        if seen.len() >= SEEN {
            seen.clear();
        }
        seen.insert(digest, claims.clone());
        Ok(claims)
    }

    /// The account, and what the token is bound to, exist and are the ones that the token means.
    async fn still_there(&self, bound: &Bound, token: &str, now: i64) -> Result<(), TokenError> {
        let space = bound.namespace.as_str();
        self.exists("serviceaccounts", space, &bound.account, now)
            .await?;
        if let Some(pod) = &bound.pod {
            self.exists("pods", space, pod, now).await?;
        } else if let Some(node) = &bound.node {
            self.exists("nodes", "", node, now).await?;
        }
        match &bound.secret {
            Some(secret) if bound.legacy => self.holds(space, &secret.name, token).await,
            Some(secret) => self.exists("secrets", space, secret, now).await,
            None => Ok(()),
        }
    }

    async fn read(&self, plural: &str, namespace: &str, name: &str) -> Result<Value, TokenError> {
        let kind = kinds::by_plural("", "v1", plural).ok_or(TokenError::Malformed)?;
        let registry = &self.inner.registry;
        let mut found = registry.get(kind, namespace, name, Freshness::Local).await;
        if matches!(&found, Err(error) if error.is_not_found()) {
            // This member may not have heard of it yet.
            let fresh = Freshness::Linearizable;
            found = registry.get(kind, namespace, name, fresh).await;
        }
        match found {
            Ok(kv) => Ok(object::decode(&kv)),
            Err(error) if error.is_not_found() => Err(TokenError::Invalidated),
            Err(error) => Err(TokenError::Lookup(error.to_string())),
        }
    }

    async fn exists(
        &self,
        plural: &str,
        namespace: &str,
        wanted: &Reference,
        now: i64,
    ) -> Result<(), TokenError> {
        let kind = kinds::by_plural("", "v1", plural).ok_or(TokenError::Malformed)?;
        let registry = &self.inner.registry;
        for freshness in [Freshness::Local, Freshness::Linearizable] {
            let kv = match registry.get(kind, namespace, &wanted.name, freshness).await {
                Ok(kv) => kv,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(TokenError::Lookup(error.to_string())),
            };
            let Ok(Named { metadata }) = serde_json::from_slice(&kv.value) else {
                return Err(TokenError::Invalidated);
            };
            let leaving = metadata
                .deletion_timestamp
                .is_some_and(|at| at.as_second() + LEAVING < now);
            if metadata.uid == wanted.uid && !leaving {
                return Ok(());
            }
        }
        Err(TokenError::Invalidated)
    }

    /// A token of the old kind holds as long as its Secret has it.
    async fn holds(&self, namespace: &str, secret: &str, token: &str) -> Result<(), TokenError> {
        use base64::Engine;
        let stored = self.read("secrets", namespace, secret).await?;
        let data = stored["data"]["token"].as_str().unwrap_or_default();
        let known = base64::engine::general_purpose::STANDARD.decode(data);
        if !object::is_terminating(&stored) && known.is_ok_and(|known| known == token.as_bytes()) {
            Ok(())
        } else {
            Err(TokenError::Invalidated)
        }
    }

    async fn bootstrap(&self, (id, secret): (&str, &str)) -> Result<User, TokenError> {
        let name = bootstrap::secret_name(id);
        let stored = self
            .read("secrets", bootstrap::NAMESPACE, &name)
            .await
            .map_err(|error| match error {
                TokenError::Invalidated => TokenError::Bootstrap,
                error => error,
            })?;
        bootstrap::judge(&stored, id, secret, jiff::Timestamp::now()).ok_or(TokenError::Bootstrap)
    }

    /// The token for a Secret of type `kubernetes.io/service-account-token`.
    pub(crate) fn legacy(
        &self,
        namespace: &str,
        account: &str,
        uid: &str,
        secret: &str,
    ) -> Result<String, ApiError> {
        let claims = Claims {
            iss: LEGACY_ISSUER.to_owned(),
            legacy_namespace: Some(namespace.to_owned()),
            legacy_secret: Some(secret.to_owned()),
            legacy_account: Some(account.to_owned()),
            legacy_uid: Some(uid.to_owned()),
            sub: username(namespace, account),
            ..Claims::default()
        };
        self.inner
            .keys
            .load()
            .sign(&claims)
            .map_err(ApiError::internal)
    }

    /// Whether one of the present keys has signed it.
    pub(crate) fn is_ours(&self, token: &str) -> bool {
        self.inner.keys.load().verify(token).is_ok()
    }
}

/// Any bytes as a token, and as the claims of one that is signed: nobody gets in, and nothing panics.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    assert!(keys::KeySet::default().verify(&text).is_err());
    if let Some((id, secret)) = bootstrap::parse(&text) {
        assert!(!id.is_empty() && !secret.is_empty());
        assert!(
            bootstrap::judge(
                &serde_json::json!({}),
                id,
                secret,
                jiff::Timestamp::UNIX_EPOCH
            )
            .is_none()
        );
    }
    if let Ok(claims) = serde_json::from_slice::<claims::Claims>(bytes) {
        let _ = claims::check(&claims, "https://issuer", &["a".to_owned()], 0);
    }
    let _ = keys::StoredKeys::parse(bytes);
}
