//! `waggle token`: tokens with which nodes join.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::core::v1::{Endpoints, Secret};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::json;

use crate::{client, join};

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
/// Who holds a token of this group gets a node's certificate without anybody approving it.
const GROUP: &str = "system:bootstrappers:waggle:default-node-token";

#[derive(Debug, clap::Args)]
pub(crate) struct TokenArguments {
    #[command(subcommand)]
    action: Action,
    /// Kubeconfig of an administrator; $KUBECONFIG, else that of `waggle dev` or of `waggle controller`.
    #[arg(long, global = true)]
    kubeconfig: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a token and print the command with which a node joins.
    Create {
        /// How long it is good for; 0s for ever.
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = crate::control_settings::duration)]
        ttl: Duration,
        /// What it is for.
        #[arg(long, default_value = "")]
        description: String,
        /// Print the token alone.
        #[arg(long)]
        token_only: bool,
    },
    /// The tokens that there are.
    List,
    /// Remove a token by its id (the part before the dot) or whole.
    Delete { token: String },
}

pub(crate) fn run(arguments: &TokenArguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let config = client::administrator(arguments.kubeconfig.as_deref()).await?;
        match &arguments.action {
            Action::Create {
                ttl,
                description,
                token_only,
            } => create(config, *ttl, description, *token_only).await,
            Action::List => list(config).await,
            Action::Delete { token } => delete(config, token).await,
        }
    })
}

fn secrets(config: kube::Config) -> anyhow::Result<Api<Secret>> {
    let client = kube::Client::try_from(config)?;
    Ok(Api::namespaced(client, NAMESPACE))
}

/// Lower-case letters and digits, each as likely as the others.
fn random(length: usize) -> anyhow::Result<String> {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut text = String::with_capacity(length);
    while text.len() < length {
        let mut bytes = [0; 32];
        rustls::crypto::ring::default_provider()
            .secure_random
            .fill(&mut bytes)
            .map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
        // The largest multiple of the alphabet's length that fits in a byte.
        let fair = bytes.iter().filter(|byte| **byte < 252);
        let letters = fair.map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]));
        text.extend(letters.take(length - text.len()));
    }
    Ok(text)
}

async fn create(
    config: kube::Config,
    ttl: Duration,
    description: &str,
    token_only: bool,
) -> anyhow::Result<()> {
    let server = server(&config).await?;
    let hash = ca_hash(&config)?;
    let token = make(config, ttl, description, GROUP).await?;
    if token_only {
        println!("{token}");
    } else {
        println!("waggle agent --join {server} --token {token} --ca-hash {hash}");
    }
    Ok(())
}

/// A new token of the group.
pub(crate) async fn make(
    config: kube::Config,
    ttl: Duration,
    description: &str,
    group: &str,
) -> anyhow::Result<String> {
    let (id, secret) = (random(6)?, random(16)?);
    let mut data = json!({
        "token-id": id,
        "token-secret": secret,
        "usage-bootstrap-authentication": "true",
        "auth-extra-groups": group,
    });
    if !description.is_empty() {
        data["description"] = description.into();
    }
    if !ttl.is_zero() {
        let end = jiff::Timestamp::now() + jiff::SignedDuration::try_from(ttl)?;
        let end = jiff::Timestamp::from_second(end.as_second())?;
        data["expiration"] = end.to_string().into();
    }
    let object: Secret = serde_json::from_value(json!({
        "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": NAMESPACE},
        "type": TYPE,
        "stringData": data,
    }))?;
    secrets(config)?
        .create(&PostParams::default(), &object)
        .await
        .context("create the token")?;
    Ok(format!("{id}.{secret}"))
}

pub(crate) fn ca_hash(config: &kube::Config) -> anyhow::Result<String> {
    let cas = config.root_cert.iter().flatten();
    let first = cas.into_iter().next();
    join::hash_of(first.context("the kubeconfig has no CA of the cluster")?)
}

/// Where others reach the API: the kubeconfig's address, unless that is of this machine alone.
pub(crate) async fn server(config: &kube::Config) -> anyhow::Result<String> {
    let own = config.cluster_url.to_string();
    let own = own.trim_end_matches('/').to_owned();
    let host = config.cluster_url.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let local = host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified());
    if !local {
        return Ok(own);
    }
    let client = kube::Client::try_from(config.clone())?;
    let endpoints: Api<Endpoints> = Api::namespaced(client, "default");
    let found = endpoints.get_opt("kubernetes").await?;
    let subset = found.and_then(|found| found.subsets?.into_iter().next());
    let address = subset.and_then(|subset| {
        let ip = subset.addresses?.into_iter().next()?.ip;
        let port = u16::try_from(subset.ports?.into_iter().next()?.port).ok()?;
        Some(std::net::SocketAddr::new(ip.parse().ok()?, port))
    });
    Ok(address.map_or(own, |address| format!("https://{address}")))
}

fn field(secret: &Secret, key: &str) -> String {
    let value = secret.data.as_ref().and_then(|data| data.get(key));
    value.map_or_else(String::new, |value| {
        String::from_utf8_lossy(&value.0).into_owned()
    })
}

async fn list(config: kube::Config) -> anyhow::Result<()> {
    let filter = ListParams::default().fields(&format!("type={TYPE}"));
    let found = secrets(config)?.list(&filter).await?;
    let now = jiff::Timestamp::now().as_second();
    println!(
        "{:<24}{:<10}{:<24}{:<40}DESCRIPTION",
        "TOKEN", "TTL", "EXPIRES", "EXTRA GROUPS"
    );
    for secret in found {
        let expires = field(&secret, "expiration");
        let left = match expires.parse::<jiff::Timestamp>() {
            Ok(end) => {
                let left = (end.as_second() - now).max(0);
                format!("{}h{}m", left / 3600, left % 3600 / 60)
            }
            Err(_) => "forever".to_owned(),
        };
        let expires = if expires.is_empty() {
            "never"
        } else {
            &expires
        };
        println!(
            "{:<24}{left:<10}{expires:<24}{:<40}{}",
            format!("{}.…", field(&secret, "token-id")),
            field(&secret, "auth-extra-groups"),
            field(&secret, "description"),
        );
    }
    Ok(())
}

async fn delete(config: kube::Config, token: &str) -> anyhow::Result<()> {
    let id = token.split('.').next().unwrap_or_default();
    ensure!(
        id.len() == 6 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()),
        "{token:?} is no token and no token's id"
    );
    let name = format!("bootstrap-token-{id}");
    let deleted = secrets(config)?
        .delete(&name, &DeleteParams::default())
        .await;
    match deleted {
        Ok(_) => {
            println!("token {id} deleted");
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 404 => bail!("there is no token {id}"),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn random_parts_are_of_the_alphabet_and_differ() {
        let one = random(16).unwrap();
        assert_eq!(one.len(), 16);
        assert!(
            one.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        );
        assert_ne!(one, random(16).unwrap());
    }
}
