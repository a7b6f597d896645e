//! Members that come, go, die and come back while a lab runs.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams};
use nix::sys::signal::{Signal, kill as send};
use nix::unistd::Pid;

use super::place::{FABRIC, Place};
use super::plan::{Host, MOST_NODES};
use super::record::{self, Member, Record};
use super::{netns, sweep, up};

/// How long a killed process may take to be gone.
const GONE: Duration = Duration::from_secs(10);
/// Lines of a log that an error shows.
const TAIL: usize = 15;

pub(super) fn add(place: &Place) -> anyhow::Result<()> {
    let _lock = record::lock(place)?;
    let mut record = Record::require(place)?;
    let numbers = record.nodes().into_iter().map(|host| match host {
        Host::Node(number) => number,
        _ => 0,
    });
    let number = numbers.max().unwrap_or(0) + 1;
    ensure!(number <= MOST_NODES, "a lab has at most {MOST_NODES} nodes");
    let host = Host::Node(number);
    record.members.push(Member {
        host,
        process: None,
    });
    // First what is known of it, so that whatever happens now is swept.
    record.write(place)?;
    let outcome = crate::runtime()?.block_on(async {
        up::connect(place, &record, host)?;
        up::load_balancers(place, &record)?;
        up::import(place, &record, host).await?;
        up::issue(place, host)?;
        let process = up::start_member(place, &record, host)?;
        record.set_process(host, Some(process));
        record.write(place)?;
        await_ready(place, &record, host).await
    });
    if let Err(error) = outcome {
        forget(place, &mut record, host).context("after a failed start")?;
        return Err(error);
    }
    println!("{} is Ready", host.name());
    Ok(())
}

pub(super) fn remove(place: &Place, name: &str) -> anyhow::Result<()> {
    let _lock = record::lock(place)?;
    let mut record = Record::require(place)?;
    let host = record.member(name)?.host;
    ensure!(
        matches!(host, Host::Node(_)),
        "{name} is no node: only nodes can be removed"
    );
    forget(place, &mut record, host)?;
    crate::runtime()?.block_on(async {
        let client = crate::client::connect(&place.kubeconfig()).await?;
        match Api::<Node>::all(client)
            .delete(name, &DeleteParams::default())
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error).context("the Node object was not deleted"),
        }
    })?;
    println!("{name} is removed");
    Ok(())
}

fn forget(place: &Place, record: &mut Record, host: Host) -> anyhow::Result<()> {
    let name = host.name();
    record.members.retain(|member| member.host != host);
    up::load_balancers(place, record)?;
    unplug(place, &name);
    sweep::member(place, &name)?;
    record.write(place)
}

/// The end of the member's cable in the fabric goes with the namespace of the other, which takes the kernel a while.
fn unplug(place: &Place, name: &str) {
    let _ = netns::ip(&place.netns(FABRIC), &format!("link delete {name}\n"));
}

pub(super) fn crash(place: &Place, name: &str) -> anyhow::Result<()> {
    let _lock = record::lock(place)?;
    let mut record = Record::require(place)?;
    let host = record.member(name)?.host;
    unplug(place, name);
    sweep::power_off(place, name)?;
    record.set_process(host, None);
    record.write(place)?;
    println!("{name} has no power");
    Ok(())
}

pub(super) fn kill(place: &Place, name: &str) -> anyhow::Result<()> {
    let _lock = record::lock(place)?;
    let mut record = Record::require(place)?;
    let member = record.member(name)?.clone();
    let Some(process) = member.process.filter(|process| process.is_alive()) else {
        bail!("{name} does not run");
    };
    send(Pid::from_raw(process.pid), Signal::SIGKILL)
        .with_context(|| format!("kill process {}", process.pid))?;
    let deadline = std::time::Instant::now() + GONE;
    while process.is_alive() {
        ensure!(
            std::time::Instant::now() < deadline,
            "process {} is still there after {GONE:?}",
            process.pid
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    record.set_process(member.host, None);
    record.write(place)?;
    println!("{name} is killed");
    Ok(())
}

pub(super) fn start(place: &Place, name: &str) -> anyhow::Result<()> {
    let _lock = record::lock(place)?;
    let mut record = Record::require(place)?;
    let member = record.member(name)?.clone();
    if member.process.is_some_and(|process| process.is_alive()) {
        bail!("{name} runs already");
    }
    if !place.netns(name).exists() {
        up::connect(place, &record, member.host)?;
    }
    // Written again when it serves.
    let kubeconfig = place.kubeconfig_of(name);
    if matches!(member.host, Host::Controller(_)) && kubeconfig.exists() {
        std::fs::remove_file(&kubeconfig)
            .with_context(|| format!("remove {}", kubeconfig.display()))?;
    }
    let process = up::start_member(place, &record, member.host)?;
    record.set_process(member.host, Some(process));
    record.write(place)?;
    crate::runtime()?.block_on(async {
        match member.host {
            Host::Node(_) => await_local(place, &record, member.host).await,
            _ => {
                up::await_file(place, &record, member.host, &kubeconfig).await?;
                if let Some(forward) = &record.forward {
                    // Its CA may be another one than before.
                    up::write_kubeconfig(place, &record, member.host, forward.port)?;
                }
                await_api(place, &record, member.host).await
            }
        }
    })?;
    println!("{name} runs");
    Ok(())
}

/// What is not on the disk is gone: processes, namespaces, programs, maps and links. Then the agent is started.
pub(super) fn reboot(place: &Place, name: &str) -> anyhow::Result<()> {
    let _lock = record::lock(place)?;
    let mut record = Record::require(place)?;
    let host = record.member(name)?.host;
    ensure!(
        matches!(host, Host::Node(_)),
        "{name} is no node: only nodes can be rebooted"
    );
    record.set_process(host, None);
    record.write(place)?;
    sweep::power_off(place, name)?;
    unplug(place, name);
    up::connect(place, &record, host)?;
    let process = up::start_member(place, &record, host)?;
    record.set_process(host, Some(process));
    record.write(place)?;
    crate::runtime()?.block_on(await_local(place, &record, host))?;
    println!("{name} is up again");
    Ok(())
}

/// An error with the end of its log, when the member's process has ended.
pub(super) fn check_alive(place: &Place, record: &Record, host: Host) -> anyhow::Result<()> {
    let name = host.name();
    let alive = record
        .member(&name)?
        .process
        .is_some_and(|process| process.is_alive());
    if alive {
        return Ok(());
    }
    let log = std::fs::read_to_string(place.log(&name)).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let tail = &lines[lines.len().saturating_sub(TAIL)..];
    bail!("{name} has ended:\n{}", tail.join("\n"))
}

/// Waits until the control plane sees the node Ready.
pub(super) async fn await_ready(place: &Place, record: &Record, host: Host) -> anyhow::Result<()> {
    let client = crate::client::connect(&place.kubeconfig()).await?;
    let name = host.name();
    tokio::select! {
        outcome = crate::client::wait_for_node(&client, &name) => outcome,
        error = until_ended(place, record, host) => Err(error),
    }
}

async fn until_ended(place: &Place, record: &Record, host: Host) -> anyhow::Error {
    loop {
        if let Err(error) = check_alive(place, record, host) {
            return error;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until the agent answers on its socket: what it adopts, it has adopted. The control plane may be away.
async fn await_local(place: &Place, record: &Record, host: Host) -> anyhow::Result<()> {
    let socket = place.run_of(&host.name()).join("agent.sock");
    poll(place, record, host, async || {
        tokio::net::UnixStream::connect(&socket).await.is_ok()
    })
    .await
}

/// Waits until the API answers.
async fn await_api(place: &Place, record: &Record, host: Host) -> anyhow::Result<()> {
    let client = crate::client::connect(&place.kubeconfig()).await?;
    poll(place, record, host, async || {
        client.apiserver_version().await.is_ok()
    })
    .await
}

async fn poll(
    place: &Place,
    record: &Record,
    host: Host,
    mut probe: impl AsyncFnMut() -> bool,
) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + crate::client::LIMIT;
    while !probe().await {
        check_alive(place, record, host)?;
        ensure!(
            tokio::time::Instant::now() < deadline,
            "{} does not answer after {:?}",
            host.name(),
            crate::client::LIMIT
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
