//! The keys that service-account tokens are signed with: the newest signs, all verify. Kept in the store, so that
//! every member has the same; a key that was replaced stays for as long as tokens of it may be about.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PublicKeyData};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::claims::{Claims, TokenError};

#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("making a signing key: {0}")]
    Make(rcgen::Error),
    #[error("the stored signing keys cannot be read: {0}")]
    Read(String),
    #[error("signing: {0}")]
    Sign(jsonwebtoken::errors::Error),
}

/// The form in which the store keeps a key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct StoredKey {
    /// PKCS #8, base64.
    pkcs8: String,
    /// Seconds since the epoch.
    created: i64,
    /// When another key took its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retired: Option<i64>,
}

/// What the store keeps; the first key signs.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredKeys {
    keys: Vec<StoredKey>,
}

impl StoredKeys {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        serde_json::from_slice(bytes).map_err(|error| KeyError::Read(error.to_string()))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers always serialize")
    }

    /// A new key in front. Those that were replaced more than `keep` seconds ago go.
    pub(crate) fn rotated(&self, now: i64, keep: i64) -> Result<Self, KeyError> {
        let pair = KeyPair::generate().map_err(KeyError::Make)?;
        let mut keys = vec![StoredKey {
            pkcs8: STANDARD.encode(pair.serialize_der()),
            created: now,
            retired: None,
        }];
        keys.extend(self.keys.iter().cloned().map(|mut key| {
            key.retired.get_or_insert(now);
            key
        }));
        keys.retain(|key| key.retired.is_none_or(|at| now - at <= keep));
        Ok(Self { keys })
    }
}

struct Key {
    id: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
    /// Coordinates of the public key.
    x: String,
    y: String,
}

/// The keys, ready for use.
#[derive(Default)]
pub(crate) struct KeySet {
    keys: Vec<Key>,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.keys.iter().map(|key| &key.id))
            .finish()
    }
}

impl KeySet {
    pub(crate) fn of(stored: &StoredKeys) -> Result<Self, KeyError> {
        let keys = stored.keys.iter().map(key).collect::<Result<_, _>>()?;
        Ok(Self { keys })
    }

    pub(crate) fn sign(&self, claims: &Claims) -> Result<String, KeyError> {
        let key = self
            .keys
            .first()
            .ok_or_else(|| KeyError::Read("there is none".to_owned()))?;
        let mut header = Header::new(Algorithm::ES256);
        header.typ = None;
        header.kid = Some(key.id.clone());
        jsonwebtoken::encode(&header, claims, &key.encoding).map_err(KeyError::Sign)
    }

    /// What the token says, if one of the keys has signed it.
    pub(crate) fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
        if header.alg != Algorithm::ES256 {
            return Err(TokenError::Malformed);
        }
        let key = self
            .keys
            .iter()
            .find(|key| Some(&key.id) == header.kid.as_ref())
            .ok_or(TokenError::UnknownKey)?;
        // Times and audiences are judged with the claims, in Kubernetes' way.
        let mut validation = Validation::new(Algorithm::ES256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        let token = jsonwebtoken::decode::<Claims>(token, &key.decoding, &validation);
        token
            .map(|token| token.claims)
            .map_err(|error| match error.kind() {
                jsonwebtoken::errors::ErrorKind::InvalidSignature => TokenError::Signature,
                _ => TokenError::Malformed,
            })
    }

    /// The public halves, as RFC 7517 writes them.
    pub(crate) fn jwks(&self) -> Value {
        let keys: Vec<Value> = self
            .keys
            .iter()
            .map(|key| {
                json!({
                    "use": "sig", "kty": "EC", "kid": key.id, "crv": "P-256", "alg": "ES256",
                    "x": key.x, "y": key.y,
                })
            })
            .collect();
        json!({ "keys": keys })
    }
}

fn key(stored: &StoredKey) -> Result<Key, KeyError> {
    let wrong = |why: String| KeyError::Read(why);
    let der = STANDARD
        .decode(&stored.pkcs8)
        .map_err(|error| wrong(error.to_string()))?;
    let pair = KeyPair::try_from(der.as_slice()).map_err(|error| wrong(error.to_string()))?;
    // An uncompressed point: 4, x, y.
    let (x, y) = match pair.public_key_raw() {
        [4, point @ ..] if point.len() == 64 => point.split_at(32),
        _ => return Err(wrong("it is no P-256 key".to_owned())),
    };
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    let decoding = DecodingKey::from_ec_components(&x, &y).map_err(|e| wrong(e.to_string()))?;
    Ok(Key {
        id: URL_SAFE_NO_PAD.encode(Sha256::digest(pair.subject_public_key_info())),
        encoding: EncodingKey::from_ec_der(&der),
        decoding,
        x,
        y,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn claims() -> Claims {
        Claims {
            sub: "s".to_owned(),
            iss: "i".to_owned(),
            ..Claims::default()
        }
    }

    #[test]
    fn a_replaced_key_verifies_until_its_tokens_have_ended() {
        let first = StoredKeys::default().rotated(0, 100).unwrap();
        let old = KeySet::of(&first).unwrap();
        let token = old.sign(&claims()).unwrap();
        let second = first.rotated(1000, 100).unwrap();
        let both = KeySet::of(&StoredKeys::parse(&second.encode()).unwrap()).unwrap();
        assert_eq!(both.verify(&token).unwrap(), claims());
        let newer = both.sign(&claims()).unwrap();
        assert_eq!(old.verify(&newer), Err(TokenError::UnknownKey));
        assert_eq!(both.jwks()["keys"].as_array().unwrap().len(), 2);
        let third = KeySet::of(&second.rotated(1101, 100).unwrap()).unwrap();
        assert_eq!(third.verify(&token), Err(TokenError::UnknownKey));
        assert_eq!(third.verify(&newer).unwrap(), claims());
    }

    #[test]
    fn what_was_changed_or_made_otherwise_is_refused() {
        let keys = KeySet::of(&StoredKeys::default().rotated(0, 0).unwrap()).unwrap();
        let token = keys.sign(&claims()).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let other = URL_SAFE_NO_PAD.encode(br#"{"sub":"t","iss":"i"}"#);
        let changed = format!("{}.{other}.{}", parts[0], parts[2]);
        assert_eq!(keys.verify(&changed), Err(TokenError::Signature));
        let none = URL_SAFE_NO_PAD.encode(br#"{"alg":"none"}"#);
        let hmac = URL_SAFE_NO_PAD.encode(br#"{"alg":"HS256"}"#);
        for text in [
            "",
            "a",
            "a.b.c",
            "..",
            &format!("{none}.{other}."),
            &format!("{hmac}.{other}.{}", parts[2]),
        ] {
            assert_eq!(keys.verify(text), Err(TokenError::Malformed), "{text}");
        }
    }
}
