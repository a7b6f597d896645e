//! Debian's etcd: three members on loopback, and a client.
//!
//! The client is generated from a part of etcd's protocol (`proto/etcd.proto`): it uses the connections of tonic that the
//! store's side uses, and needs no `protoc`, as the crates that are made for etcd do.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::certificates::Certificates;
use super::session::Session;
use crate::process::{Process, free_port};

#[allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::all,
    clippy::unwrap_used
)]
pub(super) mod pb {
    tonic::include_proto!("etcdserverpb");
}

const PREFIX: &str = "/bench/";
/// How long a member may take to serve.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Etcd {
    pub(super) members: Vec<Member>,
    certificates: Certificates,
}

pub(super) struct Member {
    pub(super) process: Option<Process>,
    pub(super) client_port: u16,
    name: String,
    arguments: Vec<String>,
    program: PathBuf,
    directory: PathBuf,
}

impl Member {
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        self.process = Some(Process::start(&self.name, &mut command, &self.directory)?);
        Ok(())
    }
}

impl Etcd {
    /// As its documentation says, with mutual TLS.
    pub(super) async fn start(
        program: &Path,
        directory: &Path,
        size: usize,
    ) -> anyhow::Result<Self> {
        let certificates = Certificates::make(directory)?;
        let mut ports = Vec::new();
        for number in 0..size {
            ports.push((format!("etcd-{number}"), free_port()?, free_port()?));
        }
        let cluster: Vec<String> = ports
            .iter()
            .map(|(name, _, peer)| format!("{name}=https://127.0.0.1:{peer}"))
            .collect();
        let mut members = Vec::new();
        for (name, client, peer) in &ports {
            let data = directory.join(name);
            std::fs::create_dir_all(&data)?;
            let mut arguments = arguments(name, &data, *client, *peer, &cluster.join(","));
            arguments.extend(tls(&certificates));
            members.push(Member {
                process: None,
                client_port: *client,
                name: name.clone(),
                arguments,
                program: program.to_owned(),
                directory: directory.to_owned(),
            });
        }
        let mut this = Self {
            members,
            certificates,
        };
        for member in &mut this.members {
            member.start()?;
        }
        for number in 0..size {
            this.await_member(number).await?;
        }
        Ok(this)
    }

    /// Until it answers and knows a leader.
    pub(super) async fn await_member(&mut self, number: usize) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            match self.status(number).await {
                Ok(status) if status.leader != 0 => return Ok(()),
                outcome if began.elapsed() > PATIENCE => bail!("etcd does not serve: {outcome:?}"),
                _ => {}
            }
            if let Some(process) = &mut self.members[number].process {
                process.check()?;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn status(&self, number: usize) -> anyhow::Result<pb::StatusResponse> {
        let channel = self.connect(number).await?;
        let mut client = pb::maintenance_client::MaintenanceClient::new(channel);
        Ok(client.status(pb::StatusRequest {}).await?.into_inner())
    }

    /// Which of the members leads, as those that run say.
    pub(super) async fn leader(&self) -> anyhow::Result<usize> {
        for (number, member) in self.members.iter().enumerate() {
            if member.process.is_none() {
                continue;
            }
            let status = self.status(number).await?;
            let own = status.header.map_or(0, |header| header.member_id);
            if own == status.leader {
                return Ok(number);
            }
        }
        bail!("no member of etcd leads")
    }

    pub(super) async fn connect(&self, number: usize) -> anyhow::Result<Channel> {
        let read = |path: &Path| std::fs::read(path);
        let (certificate, key) = (
            read(&self.certificates.certificate)?,
            read(&self.certificates.key)?,
        );
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read(&self.certificates.ca)?))
            .identity(Identity::from_pem(certificate, key));
        let port = self.members[number].client_port;
        let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}"))?;
        let endpoint = endpoint.tls_config(tls)?.tcp_nodelay(true);
        Ok(endpoint.connect().await?)
    }

    pub(super) async fn session(&self, number: usize) -> anyhow::Result<EtcdSession> {
        let channel = self.connect(number).await?;
        Ok(EtcdSession {
            client: pb::kv_client::KvClient::new(channel),
        })
    }

    pub(super) fn cpu_seconds(&self) -> f64 {
        let processes = self.members.iter().filter_map(|it| it.process.as_ref());
        processes.map(Process::cpu_seconds).sum()
    }
}

fn arguments(name: &str, data: &Path, client: u16, peer: u16, cluster: &str) -> Vec<String> {
    let client = format!("https://127.0.0.1:{client}");
    let peer = format!("https://127.0.0.1:{peer}");
    [
        format!("--name={name}"),
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster={cluster}"),
        "--initial-cluster-state=new".to_owned(),
        "--log-level=warn".to_owned(),
    ]
    .into()
}

fn tls(certificates: &Certificates) -> Vec<String> {
    let sides = ["", "peer-"].iter().flat_map(|side| {
        [
            format!("--{side}cert-file={}", certificates.certificate.display()),
            format!("--{side}key-file={}", certificates.key.display()),
            format!("--{side}trusted-ca-file={}", certificates.ca.display()),
            format!("--{side}client-cert-auth"),
        ]
    });
    sides.collect()
}

pub(super) struct EtcdSession {
    client: pb::kv_client::KvClient<Channel>,
}

fn key(number: u32) -> Bytes {
    format!("{PREFIX}{number:04}").into()
}

/// All keys that are read and written.
pub(super) fn whole_prefix() -> (Bytes, Bytes) {
    // '0' follows '/'.
    (PREFIX.into(), "/bench0".into())
}

impl Session for EtcdSession {
    async fn write(&mut self, number: u32, value: &str) -> anyhow::Result<()> {
        let value = Bytes::copy_from_slice(value.as_bytes());
        let key = key(number);
        self.client.put(pb::PutRequest { key, value }).await?;
        Ok(())
    }

    async fn read(&mut self, number: u32) -> anyhow::Result<()> {
        let request = pb::RangeRequest {
            key: key(number),
            range_end: Bytes::new(),
        };
        let answer = self.client.range(request).await?.into_inner();
        answer.kvs.first().context("the key is there")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_are_below_the_prefix() {
        let (start, end) = whole_prefix();
        for number in [0, 999] {
            assert!(key(number) >= start && key(number) < end);
        }
    }
}
