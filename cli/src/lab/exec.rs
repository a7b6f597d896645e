//! `waggle lab exec`: becomes a program in the surroundings of a member or a pod.

use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::place::{OUTSIDE, Place};
use super::plan::Host;
use super::record::Record;
use super::spawn::Surroundings;
use super::{ExecArguments, netns, up};

/// How long a controller may take to accept a connection.
const ACCEPT: Duration = Duration::from_secs(1);

pub(super) fn run(place: &Place, arguments: ExecArguments) -> anyhow::Result<()> {
    let record = Record::require(place)?;
    let name = &arguments.member;
    let (netns, cgroup, host) = if arguments.pod {
        pod(place, &record, name)?
    } else {
        if name != OUTSIDE {
            record.member(name)?;
        }
        (
            place.netns(name),
            format!("{}/exec", place.cgroup_of(name)),
            name.clone(),
        )
    };
    let kubeconfig = kubeconfig(place, &record, name)?;
    let surroundings = Surroundings {
        netns: Some(&netns),
        cgroup: &cgroup,
        hostname: Some(&host),
    };
    surroundings
        .open()?
        .enter()
        .with_context(|| format!("enter {name}"))?;
    if host != OUTSIDE {
        resolve_by(&place.resolv_conf())?;
    }
    let mut words = arguments.command.into_iter();
    let program = words
        .next()
        .or_else(|| std::env::var_os("SHELL"))
        .unwrap_or_else(|| "/bin/sh".into());
    let mut command = std::process::Command::new(&program);
    command
        .args(words)
        .env("KUBECONFIG", kubeconfig)
        .env("WAGGLE_LAB", &place.name)
        .env("WAGGLE_LAB_MEMBER", name);
    Err(command.exec()).with_context(|| format!("run {}", program.display()))
}

/// The kubeconfig of a controller that takes connections: of the member itself, where that is one and does.
fn kubeconfig(place: &Place, record: &Record, name: &str) -> anyhow::Result<PathBuf> {
    let hosts = record.members.iter().map(|member| member.host);
    let mut controllers: Vec<Host> = hosts
        .filter(|host| matches!(host, Host::Controller(_)))
        .collect();
    controllers.sort_by_key(|host| host.name() != name);
    let found = netns::inside(&place.netns(OUTSIDE), || {
        for controller in controllers {
            let kubeconfig = place.kubeconfig_of(&controller.name());
            let address = up::api_address(record, controller)?;
            if kubeconfig.exists() && TcpStream::connect_timeout(&address, ACCEPT).is_ok() {
                return Ok(Some(kubeconfig));
            }
        }
        Ok(None)
    })?;
    Ok(found.unwrap_or_else(|| place.inner_kubeconfig()))
}

/// In a mount namespace of its own, names are resolved by the cluster's DNS.
fn resolve_by(resolv_conf: &Path) -> anyhow::Result<()> {
    let Ok(target) = Path::new("/etc/resolv.conf").canonicalize() else {
        return Ok(());
    };
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    let none = None::<&str>;
    let inward = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(none, "/", none, inward, none).context("keep mounts to ourselves")?;
    mount(Some(resolv_conf), &target, none, MsFlags::MS_BIND, none)
        .with_context(|| format!("mount on {}", target.display()))
}

/// Namespace, cgroup and host name of a pod.
fn pod(
    place: &Place,
    record: &Record,
    name: &str,
) -> anyhow::Result<(std::path::PathBuf, String, String)> {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    // The calling process must be left with one thread.
    let pod = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?
                    .block_on(async {
                        let client = crate::client::connect(&place.kubeconfig()).await?;
                        let pods = Api::<Pod>::namespaced(client, namespace);
                        anyhow::Ok(pods.get(name).await?)
                    })
            })
            .join()
            .map_err(|_| anyhow::anyhow!("the API could not be asked"))?
    })?;
    let uid = pod.metadata.uid.context("a pod has a uid")?;
    let spec = pod.spec.context("a pod has a spec")?;
    let node = spec
        .node_name
        .with_context(|| format!("{namespace}/{name} is on no node yet"))?;
    let host = record.member(&node)?.host;
    ensure!(matches!(host, Host::Node(_)), "{node} is no node");
    let netns = if spec.host_network == Some(true) {
        place.netns(&node)
    } else {
        place.run_of(&node).join("netns").join(&uid)
    };
    ensure!(
        netns.exists(),
        "{namespace}/{name} has no network on {node}"
    );
    let cgroup = format!("{}/pods/pod{uid}/exec", place.cgroup_of(&node));
    Ok((netns, cgroup, name.to_owned()))
}
