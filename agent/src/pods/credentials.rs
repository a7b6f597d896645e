//! Registry credentials out of pull secrets (`kubernetes.io/dockerconfigjson` and the older `dockercfg`).

use std::collections::BTreeMap;

use base64::Engine;
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;

use crate::images::Credentials;

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
}

#[derive(Deserialize)]
struct Auth {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
}

/// What cannot be read gives nothing: the pull will say that it was refused.
pub(crate) fn of_secret(secret: &Secret) -> Vec<Credentials> {
    let data = |key: &str| {
        secret
            .data
            .iter()
            .flatten()
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value.0.as_slice())
    };
    let auths = if let Some(json) = data(".dockerconfigjson") {
        serde_json::from_slice::<DockerConfig>(json).map(|config| config.auths)
    } else if let Some(json) = data(".dockercfg") {
        serde_json::from_slice(json)
    } else {
        return Vec::new();
    };
    auths
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(server, auth)| {
            let (username, password) = match (auth.username, auth.password, auth.auth) {
                (Some(username), Some(password), _) => (username, password),
                (_, _, Some(both)) => decode(&both)?,
                _ => return None,
            };
            Some(Credentials {
                registry: registry(&server),
                username,
                password,
            })
        })
        .collect()
}

fn decode(both: &str) -> Option<(String, String)> {
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(both.trim())
        .ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (username, password) = text.split_once(':')?;
    Some((username.to_owned(), password.to_owned()))
}

/// `https://registry.example/v1/` names `registry.example`.
fn registry(server: &str) -> String {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or(rest);
    if host == "index.docker.io" {
        "docker.io".to_owned()
    } else {
        host.to_owned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use k8s_openapi::ByteString;
    use proptest::prelude::*;

    fn secret(json: &[u8]) -> Secret {
        Secret {
            data: Some([(".dockerconfigjson".to_owned(), ByteString(json.to_vec()))].into()),
            ..Secret::default()
        }
    }

    #[test]
    fn both_forms_are_read() {
        let json = br#"{"auths": {"https://r.example/v1/": {"auth": "dTpw"},
            "localhost:5000": {"username": "a", "password": "b:c"}}}"#;
        let found = of_secret(&secret(json));
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].registry, "r.example");
        assert_eq!(
            (found[0].username.as_str(), found[0].password.as_str()),
            ("u", "p")
        );
        assert_eq!(found[1].registry, "localhost:5000");
    }

    proptest! {
        #[test]
        fn never_panics(json in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = of_secret(&secret(&json));
        }
    }
}
