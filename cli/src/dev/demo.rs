//! The demo: three echo servers behind a Service, and a client pod that calls them by name.
//!
//! Its image is made here from busybox (servers) and curl (client), so that no registry is needed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::StartArguments;
use crate::client::{LIMIT, wait_for};
use crate::progress::Progress;

pub(super) const NAMESPACE: &str = "default";
/// Calls that the client pod makes.
const CALLS: u32 = 30;
const IMAGE: &str = "waggle.local/demo/echo:1";

/// What the client pod saw.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct Called {
    pub(super) name: String,
    pub(super) calls: u32,
    /// Answers by the pod that gave them.
    pub(super) answers: BTreeMap<String, u32>,
    pub(super) failed: u32,
}

pub(super) async fn run(
    client: &Client,
    arguments: &StartArguments,
    progress: &mut Progress,
) -> anyhow::Result<Called> {
    progress.begin("demo", "making its image");
    let busybox = find(
        "busybox",
        arguments.busybox.as_deref(),
        "busybox-static, or name one with --busybox",
    )?;
    let curl = find("curl", None, "curl")?;
    let store = arguments.data_dir.join("agent");
    crate::image::make_busybox_image(&store, &busybox, &[curl], IMAGE).await?;
    let parameters = PatchParams::apply("waggle-demo").force();
    let deployments = Api::<Deployment>::namespaced(client.clone(), NAMESPACE);
    let services = Api::<Service>::namespaced(client.clone(), NAMESPACE);
    deployments
        .patch("echo", &parameters, &Patch::Apply(&deployment()))
        .await?;
    services
        .patch("echo", &parameters, &Patch::Apply(&service()))
        .await?;
    wait_for(deployments, "echo", "available", |deployment| {
        let Some(status) = &deployment.status else {
            return false;
        };
        status.available_replicas == Some(3)
            && status.observed_generation == deployment.metadata.generation
    })
    .await?;
    progress.done("demo", "Deployment echo has 3 pods available");
    progress.begin(
        "demo",
        &format!("calling the Service {CALLS} times by its name"),
    );
    let called = call(client, &arguments.cluster.cluster_domain).await?;
    progress.done(
        "demo",
        &format!("{} calls answered", called.calls - called.failed),
    );
    Ok(called)
}

/// A program of this machine that the demo's image is made of.
fn find(name: &str, asked: Option<&Path>, package: &str) -> anyhow::Result<PathBuf> {
    if let Some(path) = asked {
        return Ok(path.to_owned());
    }
    ["/bin", "/usr/bin", "/usr/local/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "the demo's image is made of {name}, which is not here: install Debian's {package}"
            )
        })
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "echo", "labels": {"app": "echo"}},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "echo"}},
            "template": {
                "metadata": {"labels": {"app": "echo"}},
                "spec": {
                    "terminationGracePeriodSeconds": 2,
                    "containers": [{
                        "name": "echo",
                        "image": IMAGE,
                        "command": ["sh", "-c"],
                        "args": ["mkdir -p /www && hostname > /www/index.html && exec httpd -f -p 8080 -h /www"],
                        "ports": [{"containerPort": 8080}],
                        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 2}
                    }]
                }
            }
        }
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "echo", "labels": {"app": "echo"}},
        "spec": {"selector": {"app": "echo"}, "ports": [{"port": 80, "targetPort": 8080}]}
    })
}

/// Runs the client pod to its end and counts what it printed.
async fn call(client: &Client, domain: &str) -> anyhow::Result<Called> {
    let name = format!("echo.{NAMESPACE}.svc.{domain}");
    let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
    if pods.get_opt("client").await?.is_some() {
        pods.delete("client", &DeleteParams::default().grace_period(0))
            .await?;
        wait_until_gone(&pods, "client").await?;
    }
    let script = format!(
        "i=0; while [ $i -lt {CALLS} ]; do curl -s -m 5 http://{name}/ || echo failed; i=$((i+1)); done"
    );
    let pod: Pod = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "client", "labels": {"app": "client"}},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "client", "image": IMAGE, "command": ["sh", "-c", script]}]
        }
    }))?;
    pods.create(&PostParams::default(), &pod).await?;
    wait_for(pods.clone(), "client", "finished", |pod| {
        pod.status
            .as_ref()
            .and_then(|status| status.phase.as_deref())
            .is_some_and(|phase| phase == "Succeeded" || phase == "Failed")
    })
    .await?;
    let log = pods.logs("client", &LogParams::default()).await?;
    Ok(count(name, &log))
}

async fn wait_until_gone(pods: &Api<Pod>, name: &str) -> anyhow::Result<()> {
    let selection = ListParams::default().fields(&format!("metadata.name={name}"));
    tokio::time::timeout(LIMIT, async {
        loop {
            let list = pods.list(&selection).await?;
            if list.items.is_empty() {
                return Ok::<_, kube::Error>(());
            }
            let parameters = kube::api::WatchParams::default()
                .fields(&format!("metadata.name={name}"))
                .timeout(30);
            let version = list.metadata.resource_version.unwrap_or_default();
            let mut changes = std::pin::pin!(pods.watch(&parameters, &version).await?);
            while let Some(change) = changes.next().await {
                if matches!(change, Ok(kube::api::WatchEvent::Deleted(_))) {
                    return Ok(());
                }
            }
        }
    })
    .await
    .with_context(|| format!("the old pod {name} does not go away"))??;
    Ok(())
}

fn count(name: String, log: &str) -> Called {
    let mut called = Called {
        name,
        calls: CALLS,
        answers: BTreeMap::new(),
        failed: 0,
    };
    let mut answered = 0;
    for line in log
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("echo-"))
    {
        *called.answers.entry(line.to_owned()).or_insert(0) += 1;
        answered += 1;
    }
    called.failed = CALLS.saturating_sub(answered);
    called
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_and_what_is_missing_failed() {
        let log = "echo-a\necho-b\nfailed\nwget: timed out\necho-a\n";
        let called = count("echo".to_owned(), log);
        assert_eq!(called.answers.get("echo-a"), Some(&2));
        assert_eq!(called.answers.get("echo-b"), Some(&1));
        assert_eq!(called.failed, CALLS - 3);
    }
}
