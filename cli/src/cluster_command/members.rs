//! `waggle cluster members`, `add`, `remove` and `compact`.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use controlplane::{ClusterStatus, MemberStatus};

use super::{align, or_dash, row};
use crate::token_command;

/// Who holds a token of this group may make a machine a member of the control plane.
const GROUP: &str = "system:bootstrappers:waggle:members";

/// The members as a table.
pub(super) fn table(status: &ClusterStatus) -> String {
    let mut rows = vec![row(&[
        "MEMBER", "NAME", "ROLE", "HEALTH", "ADDRESS", "API", "REVISION", "VERSION",
    ])];
    rows.extend(status.members.iter().map(member));
    let mut text = String::new();
    align(&mut text, &rows);
    text
}

fn member(member: &MemberStatus) -> Vec<String> {
    let role = match (member.leader, member.voter) {
        (true, _) => "leader",
        (false, true) => "follower",
        (false, false) => "learner",
    };
    let health = match (member.present, member.no_space) {
        (false, _) => "away",
        (true, true) => "disk full",
        (true, false) => "ok",
    };
    row(&[
        &member.id.to_string(),
        or_dash(&member.name),
        role,
        health,
        or_dash(&member.address),
        or_dash(&member.api_address),
        &member.revision.to_string(),
        or_dash(&member.version),
    ])
}

/// Makes a token and prints the command with which another machine becomes a member.
pub(super) async fn add(config: kube::Config, ttl: Duration) -> anyhow::Result<()> {
    let server = token_command::server(&config).await?;
    let hash = token_command::ca_hash(&config)?;
    let token = join_token(config, ttl).await?;
    println!("waggle controller --join {server} --token {token} --ca-hash {hash}");
    Ok(())
}

/// A token with which a machine may become a member.
pub(crate) async fn join_token(config: kube::Config, ttl: Duration) -> anyhow::Result<String> {
    token_command::make(config, ttl, "a member of the control plane", GROUP).await
}

pub(super) async fn remove(config: kube::Config, who: &str) -> anyhow::Result<()> {
    let client = kube::Client::try_from(config)?;
    let request = http::Request::delete(format!("/waggle/v1/members/{who}")).body(Vec::new())?;
    let gone: serde_json::Value = client
        .request(request)
        .await
        .with_context(|| format!("remove {who}"))?;
    println!(
        "member {} ({}) is removed; its process stops by itself",
        gone["id"],
        gone["name"].as_str().unwrap_or_default()
    );
    Ok(())
}

pub(super) async fn compact(config: kube::Config, revision: Option<u64>) -> anyhow::Result<()> {
    let client = kube::Client::try_from(config)?;
    let body = serde_json::to_vec(&serde_json::json!({"revision": revision}))?;
    let request = http::Request::post("/waggle/v1/compact").body(body)?;
    let done: serde_json::Value = client.request(request).await.context("compact")?;
    println!("compacted at revision {}", done["revision"]);
    Ok(())
}

/// Each member is asked itself: who leads comes last.
pub(super) async fn defragment(
    config: &kube::Config,
    status: &ClusterStatus,
    who: Option<&str>,
) -> anyhow::Result<()> {
    let asked = |member: &&MemberStatus| {
        who.is_none_or(|who| member.name == who || member.id.to_string() == who)
    };
    let mut members: Vec<&MemberStatus> = status.members.iter().filter(asked).collect();
    ensure!(
        !members.is_empty(),
        "there is no member {}",
        who.unwrap_or_default()
    );
    members.sort_by_key(|member| (member.leader, member.id));
    let alone = status.members.len() == 1;
    for member in members {
        let mut config = config.clone();
        if !alone {
            let url = format!("https://{}", member.api_address);
            config.cluster_url = url.parse().with_context(|| url.clone())?;
        }
        let client = kube::Client::try_from(config)?;
        let request = http::Request::post("/waggle/v1/defragment").body(Vec::new())?;
        let asked = client.request(request).await;
        let done: serde_json::Value =
            asked.with_context(|| format!("defragment member {}", member.name))?;
        println!(
            "member {} ({}): {} bytes before, {} now",
            member.id, member.name, done["before"], done["after"]
        );
    }
    Ok(())
}
