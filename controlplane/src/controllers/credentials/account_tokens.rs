//! Secrets of type `kubernetes.io/service-account-token`: filled with the token of the account that they name,
//! and removed with it.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};

use super::Keys;
use crate::auth::Tokens;
use crate::cache::{Cache, ObjectKey, Queue, Subscription};
use crate::controllers::worker::Next;
use crate::registry::{ApiError, Client, DeleteOptions};

pub(super) const NAME: &str = "tokens-controller";
const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";

pub(super) struct Controller {
    client: Client,
    cache: Cache,
    tokens: Tokens,
    ca_pem: String,
}

fn account_of(secret: &Secret) -> Option<&str> {
    if secret.type_.as_deref() != Some(TYPE) {
        return None;
    }
    secret
        .metadata
        .annotations
        .as_ref()?
        .get(ACCOUNT)
        .map(String::as_str)
}

/// The work is by Secret; a change of an account concerns those that name it.
pub(super) fn subscribe(cache: &Cache, queue: &Queue<ObjectKey>) -> Vec<Subscription> {
    let secrets = {
        let queue = queue.clone();
        cache.secrets.subscribe(move |delta| {
            if delta.new.is_some_and(|secret| account_of(secret).is_some()) {
                queue.add(delta.key.clone());
            }
        })
    };
    let accounts = {
        let (queue, secrets) = (queue.clone(), cache.secrets.clone());
        cache.service_accounts.subscribe(move |delta| {
            for secret in secrets.list(&delta.key.namespace) {
                if account_of(&secret) == Some(delta.key.name.as_ref()) {
                    queue.add(ObjectKey::of(secret.as_ref()));
                }
            }
        })
    };
    vec![secrets, accounts]
}

/// What is to become of a Secret.
#[derive(Debug, PartialEq)]
enum Step {
    Nothing,
    Remove,
    Write(Box<Secret>),
}

/// Pure but for `token`, which makes one; `good` says whether the one that is there still counts.
fn plan(
    secret: &Secret,
    account: Option<&ServiceAccount>,
    ca_pem: &str,
    good: impl Fn(&str) -> bool,
    token: impl FnOnce(&str) -> Option<String>,
) -> Step {
    let meant = secret.metadata.annotations.as_ref();
    let meant = meant.and_then(|annotations| annotations.get(UID));
    let uid = account.and_then(|account| account.metadata.uid.as_deref());
    let Some(uid) = uid.filter(|uid| meant.is_none_or(|meant| meant == uid)) else {
        return Step::Remove;
    };
    let mut changed = secret.clone();
    let annotations = changed
        .metadata
        .annotations
        .get_or_insert_with(BTreeMap::new);
    annotations.insert(UID.to_owned(), uid.to_owned());
    let namespace = secret.metadata.namespace.clone().unwrap_or_default();
    let data = changed.data.get_or_insert_with(BTreeMap::new);
    let present = data.get("token").map(|token| token.0.clone());
    let present = present.and_then(|token| String::from_utf8(token).ok());
    if !present.is_some_and(|present| good(&present)) {
        let Some(token) = token(uid) else {
            return Step::Nothing;
        };
        data.insert("token".to_owned(), ByteString(token.into_bytes()));
    }
    data.insert("ca.crt".to_owned(), ByteString(ca_pem.as_bytes().to_vec()));
    data.insert("namespace".to_owned(), ByteString(namespace.into_bytes()));
    if changed == *secret {
        Step::Nothing
    } else {
        Step::Write(Box::new(changed))
    }
}

impl Controller {
    pub(super) fn new(client: &Client, cache: &Cache, keys: &Keys) -> Self {
        Self {
            client: client.with_manager(NAME),
            cache: cache.clone(),
            tokens: keys.tokens.clone(),
            ca_pem: keys.pki.trusted_pem(),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        let Some(secret) = self.cache.secrets.get_key(&key) else {
            return Ok(Next::Wait);
        };
        let Some(name) = account_of(&secret) else {
            return Ok(Next::Wait);
        };
        if secret.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Wait);
        }
        // Asked for anew: on the word of the cache alone nothing is removed.
        let account = self
            .client
            .get::<ServiceAccount>(&key.namespace, name)
            .await?;
        let step = plan(
            &secret,
            account.as_ref(),
            &self.ca_pem,
            |token| self.tokens.is_ours(token),
            |uid| {
                self.tokens
                    .legacy(&key.namespace, name, uid, &key.name)
                    .ok()
            },
        );
        match step {
            Step::Nothing => {}
            Step::Write(changed) => match self.client.update(changed.as_ref()).await {
                Err(error) if error.code() == 404 => {}
                result => drop(result?),
            },
            Step::Remove => {
                let options = DeleteOptions {
                    uid: secret.metadata.uid.clone(),
                    ..DeleteOptions::default()
                };
                self.client
                    .delete::<Secret>(&key.namespace, &key.name, options)
                    .await?;
            }
        }
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn secret() -> Secret {
        let mut secret = Secret {
            type_: Some(TYPE.to_owned()),
            ..Secret::default()
        };
        secret.metadata.namespace = Some("ns".to_owned());
        secret.metadata.annotations = Some([(ACCOUNT.to_owned(), "robot".to_owned())].into());
        secret
    }

    fn account(uid: &str) -> ServiceAccount {
        let mut account = ServiceAccount::default();
        account.metadata.uid = Some(uid.to_owned());
        account
    }

    #[test]
    fn a_secret_is_filled_once_and_goes_with_its_account() {
        let make = |uid: &str| Some(format!("token of {uid}"));
        let Step::Write(filled) = plan(&secret(), Some(&account("u")), "CA", |_| true, make) else {
            panic!("it is to be filled");
        };
        let data = filled.data.clone().unwrap();
        assert_eq!(data["token"].0, b"token of u");
        assert_eq!(data["namespace"].0, b"ns");
        assert_eq!(filled.metadata.annotations.as_ref().unwrap()[UID], "u");
        let again = plan(&filled, Some(&account("u")), "CA", |_| true, make);
        assert_eq!(again, Step::Nothing);
        let lost_key = plan(
            &filled,
            Some(&account("u")),
            "CA",
            |_| false,
            |_| Some("new".into()),
        );
        assert!(matches!(lost_key, Step::Write(_)));
        assert_eq!(plan(&filled, None, "CA", |_| true, make), Step::Remove);
        let other = plan(&filled, Some(&account("v")), "CA", |_| true, make);
        assert_eq!(other, Step::Remove, "another account of the same name");
    }
}
