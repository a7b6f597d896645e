//! `waggle cluster`: what kubectl cannot say of a cluster.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use controlplane::{ClusterStatus, NodeStatus};

mod members;
mod snapshot;

pub(crate) use members::join_token;

#[derive(Debug, clap::Args)]
pub(crate) struct ClusterArguments {
    #[command(subcommand)]
    action: Action,
    /// Kubeconfig of an administrator; $KUBECONFIG, else that of `waggle dev` or of `waggle controller`.
    #[arg(long, global = true)]
    kubeconfig: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// The members of the control plane, and of each node what its data plane has in force.
    Status {
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// The members of the control plane: who leads, who is away, how far each is.
    Members {
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Print the command with which another machine becomes a member of the control plane.
    Add {
        /// How long the command is good for.
        #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = crate::control_settings::duration)]
        ttl: std::time::Duration,
    },
    /// Take a member out, by its name or number; its process stops by itself.
    Remove { member: String },
    /// Forget the history of the store, up to a revision or all of it. It is done without being asked, too.
    Compact { revision: Option<u64> },
    /// Give space on the disk back, on all members or on one, one after the other and the leader last; writes of a member
    /// wait meanwhile. Members that do not lead do it without being asked, too.
    Defragment {
        /// Name or number
        member: Option<String>,
    },
    /// Save everything to a file, or make a new cluster of one.
    Snapshot {
        #[command(subcommand)]
        action: snapshot::SnapshotAction,
    },
    /// Every member seals its store with a new key; the old ones open nothing any more.
    RotateEncryptionKey,
    /// Tokens are signed with a new key from now on; those of the old one stay good until they end.
    RotateSigningKey,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

pub(crate) fn run(arguments: &ClusterArguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let config = async || crate::client::administrator(arguments.kubeconfig.as_deref()).await;
    match &arguments.action {
        Action::Status { output } => {
            let status = runtime.block_on(status(arguments))?;
            show(&status, *output, text)
        }
        Action::Members { output } => {
            let status = runtime.block_on(status(arguments))?;
            match output {
                Output::Text => show(&status, *output, members::table),
                Output::Json => {
                    println!("{}", serde_json::to_string_pretty(&status.members)?);
                    Ok(())
                }
            }
        }
        Action::Add { ttl } => {
            runtime.block_on(async { members::add(config().await?, *ttl).await })
        }
        Action::Remove { member } => {
            runtime.block_on(async { members::remove(config().await?, member).await })
        }
        Action::Compact { revision } => {
            runtime.block_on(async { members::compact(config().await?, *revision).await })
        }
        Action::Defragment { member } => {
            let status = runtime.block_on(status(arguments))?;
            runtime.block_on(async {
                let config = config().await?;
                members::defragment(&config, &status, member.as_deref()).await
            })
        }
        Action::RotateEncryptionKey => runtime.block_on(rotate(arguments, "encryption-key")),
        Action::RotateSigningKey => runtime.block_on(rotate(arguments, "signing-key")),
        Action::Snapshot { action } => match action {
            snapshot::SnapshotAction::Save { file, stale } => {
                runtime.block_on(async { snapshot::save(config().await?, file, *stale).await })
            }
            snapshot::SnapshotAction::Restore { file, data_dir } => {
                snapshot::restore(file, data_dir)
            }
            snapshot::SnapshotAction::Status { file } => snapshot::status(file),
        },
    }
}

fn show(
    status: &ClusterStatus,
    output: Output,
    text: impl Fn(&ClusterStatus) -> String,
) -> anyhow::Result<()> {
    match output {
        Output::Text => print!("{}", text(status)),
        Output::Json => println!("{}", serde_json::to_string_pretty(status)?),
    }
    Ok(())
}

async fn rotate(arguments: &ClusterArguments, what: &str) -> anyhow::Result<()> {
    let config = crate::client::administrator(arguments.kubeconfig.as_deref()).await?;
    let client = kube::Client::try_from(config)?;
    let path = format!("/waggle/v1/rotate/{what}");
    let request = http::Request::post(&path).body(Vec::new())?;
    let answer: serde_json::Value = client.request(request).await.context(path)?;
    println!("{}", answer["message"].as_str().unwrap_or("done"));
    Ok(())
}

async fn status(arguments: &ClusterArguments) -> anyhow::Result<ClusterStatus> {
    let config = crate::client::administrator(arguments.kubeconfig.as_deref()).await?;
    let server = config.cluster_url.clone();
    let client = kube::Client::try_from(config)?;
    let request = http::Request::get("/waggle/v1/status").body(Vec::new())?;
    client
        .request(request)
        .await
        .with_context(|| format!("{server}waggle/v1/status"))
}

fn text(status: &ClusterStatus) -> String {
    let mut text = format!("revision {}\n\n", status.revision);
    let mut members = vec![row(&["MEMBER", "ROLE", "ADDRESS"])];
    for member in &status.members {
        let role = match (member.leader, member.voter) {
            (true, _) => "leader",
            (false, true) => "follower",
            (false, false) => "learner",
        };
        members.push(row(&[
            &member.id.to_string(),
            role,
            or_dash(&member.address),
        ]));
    }
    align(&mut text, &members);
    text.push('\n');
    let mut nodes = vec![row(&[
        "NODE",
        "READY",
        "ADDRESSES",
        "POD RANGES",
        "AGENT",
        "APPLIED",
        "BEHIND",
        "DATA PLANE",
    ])];
    nodes.extend(status.nodes.iter().map(node));
    align(&mut text, &nodes);
    text
}

fn node(node: &NodeStatus) -> Vec<String> {
    let (applied, behind) = match (node.connected, node.applied_revision) {
        (false, _) => ("not connected".to_owned(), "-".to_owned()),
        (true, 0) => ("nothing yet".to_owned(), node.behind.to_string()),
        (true, revision) => (revision.to_string(), node.behind.to_string()),
    };
    let mode = &node.data_plane;
    let mut modes = vec![mode.routing.as_str(), mode.north_south.as_str()];
    if mode.xdp == "on" {
        modes.push("xdp");
    }
    modes.retain(|mode| !mode.is_empty());
    row(&[
        &node.name,
        &node.ready,
        or_dash(&node.addresses.join(",")),
        or_dash(&node.pod_cidrs.join(",")),
        or_dash(&node.agent_version),
        &applied,
        &behind,
        or_dash(&modes.join(",")),
    ])
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

/// Columns as wide as their widest cell.
fn align(text: &mut String, rows: &[Vec<String>]) {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned_and_says_what_is_not_known() {
        let status: ClusterStatus = serde_json::from_str(
            r#"{"kind": "ClusterStatus", "apiVersion": "waggle.dev/v1", "revision": 120,
            "members": [{"id": 1, "address": "", "leader": true, "voter": true}],
            "nodes": [
              {"name": "node-1", "ready": "True", "addresses": ["192.0.2.1", "2001:db8::1"],
               "podCIDRs": ["10.244.0.0/24"], "zone": "", "connected": true, "agentVersion": "0.1.0",
               "appliedRevision": 97, "sentRevision": 100, "behind": 3,
               "dataPlane": {"routing": "overlay", "northSouth": "snat", "xdp": "on"}},
              {"name": "n2", "ready": "Unknown", "addresses": [], "podCIDRs": [], "zone": "",
               "connected": false, "agentVersion": "", "appliedRevision": 0, "sentRevision": 0, "behind": 0,
               "dataPlane": {"routing": "", "northSouth": "", "xdp": ""}}]}"#,
        )
        .expect("it is read");
        assert_eq!(
            text(&status),
            "revision 120\n\n\
             MEMBER  ROLE    ADDRESS\n\
             1       leader  -\n\n\
             NODE    READY    ADDRESSES              POD RANGES     AGENT  APPLIED        BEHIND  DATA PLANE\n\
             node-1  True     192.0.2.1,2001:db8::1  10.244.0.0/24  0.1.0  97             3       overlay,snat,xdp\n\
             n2      Unknown  -                      -              -      not connected  -       -\n"
        );
    }
}
