//! Our members: controllers on loopback, their API, and the store below it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use http::Method;
use proto::raft::v1 as pb;
use proto::raft::v1::peers_client::PeersClient;
use serde_json::json;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use super::forwarder::Peer;
use super::session::Session;
use crate::process::{Process, free_port};
use crate::rest::{Connection, Identity};

/// The version of the members' protocol that is spoken here.
const PROTOCOL: u32 = 1;
/// The name in every member's certificate.
const MEMBER_NAME: &str = "member.waggle";
pub(super) const NAMESPACE: &str = "bench";
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Waggle {
    pub(super) members: Vec<Member>,
    pub(super) admin: Identity,
}

pub(super) struct Member {
    pub(super) process: Option<Process>,
    pub(super) api_port: u16,
    peer_port: u16,
    name: String,
    data: PathBuf,
    directory: PathBuf,
}

impl Member {
    fn new(directory: &Path, number: usize) -> anyhow::Result<Self> {
        let name = format!("waggle-{number}");
        Ok(Self {
            process: None,
            api_port: free_port()?,
            peer_port: free_port()?,
            data: directory.join(&name),
            name,
            directory: directory.to_owned(),
        })
    }

    /// `join` are further arguments, with which it becomes a member.
    pub(super) fn start(&mut self, join: &[String]) -> anyhow::Result<()> {
        let mut command = Command::new(waggle_tests::waggle());
        command
            .arg("controller")
            .arg("--data-dir")
            .arg(&self.data)
            .args(["--name", &self.name])
            .args(["--listen", &format!("127.0.0.1:{}", self.api_port)])
            .args(["--peer-listen", &format!("127.0.0.1:{}", self.peer_port)])
            .args([
                "--advertise-address",
                &format!("127.0.0.1:{}", self.api_port),
            ])
            .args(join);
        self.process = Some(Process::start(&self.name, &mut command, &self.directory)?);
        Ok(())
    }

    fn kubeconfig(&self) -> PathBuf {
        self.data.join("admin.kubeconfig")
    }

    pub(super) fn running(&self) -> anyhow::Result<&Process> {
        self.process.as_ref().context("it runs")
    }
}

impl Waggle {
    pub(super) async fn start(directory: &Path, size: usize) -> anyhow::Result<Self> {
        let mut first = Member::new(directory, 0)?;
        first.start(&[])?;
        await_file(&mut first).await?;
        let mut this = Self {
            admin: Identity::of_kubeconfig(&first.kubeconfig())?,
            members: vec![first],
        };
        this.await_member(0).await?;
        for number in 1..size {
            let mut member = Member::new(directory, number)?;
            let join = this.join_arguments()?;
            member.start(&join)?;
            this.members.push(member);
            this.await_member(number).await?;
        }
        this.await_voters().await?;
        let mut connection = this.connect(0).await?;
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        connection.post("/api/v1/namespaces", &namespace).await?;
        Ok(this)
    }

    fn join_arguments(&self) -> anyhow::Result<Vec<String>> {
        let output = Command::new(waggle_tests::waggle())
            .args(["cluster", "add", "--kubeconfig"])
            .arg(self.members[0].kubeconfig())
            .output()?;
        let text = String::from_utf8(output.stdout)?;
        let words: Vec<&str> = text.split_whitespace().collect();
        let ["waggle", "controller", rest @ ..] = words.as_slice() else {
            bail!(
                "waggle cluster add says {text:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        Ok(rest.iter().map(|word| (*word).to_owned()).collect())
    }

    /// Until its API answers.
    pub(super) async fn await_member(&mut self, number: usize) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let answer = async {
                let mut connection = self.connect(number).await?;
                connection.ask(Method::GET, "/readyz", "").await
            };
            let error = match answer.await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            ensure!(
                began.elapsed() < PATIENCE,
                "a member does not serve: {error:#}"
            );
            if let Some(process) = &mut self.members[number].process {
                process.check()?;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// All vote and are heard of.
    pub(super) async fn await_voters(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let status = self.status().await?;
            let members = status["members"].as_array().context("members")?;
            let there =
                |member: &&serde_json::Value| member["voter"] == true && member["present"] == true;
            if members.iter().filter(there).count() == self.members.len() {
                return Ok(());
            }
            ensure!(began.elapsed() < PATIENCE, "not all members vote: {status}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What the first member that runs says of all.
    async fn status(&self) -> anyhow::Result<serde_json::Value> {
        let running = self.members.iter().position(|it| it.process.is_some());
        let mut connection = self.connect(running.context("a member runs")?).await?;
        connection.get("/waggle/v1/status").await
    }

    /// Which of the members leads.
    pub(super) async fn leader(&self) -> anyhow::Result<usize> {
        let status = self.status().await?;
        let members = status["members"].as_array().context("members")?;
        let leader = members.iter().find(|member| member["leader"] == true);
        let name = leader.and_then(|leader| leader["name"].as_str());
        let number = self
            .members
            .iter()
            .position(|it| Some(it.name.as_str()) == name);
        number.with_context(|| format!("no leader in {status}"))
    }

    pub(super) async fn connect(&self, number: usize) -> anyhow::Result<Connection> {
        Connection::open(self.members[number].api_port, &self.admin).await
    }

    pub(super) async fn api_session(&self, number: usize) -> anyhow::Result<ApiSession> {
        Ok(ApiSession {
            connection: self.connect(number).await?,
        })
    }

    /// The leader's port for members, with a certificate of its own.
    pub(super) async fn peer(&self, number: usize) -> anyhow::Result<Peer> {
        let member = &self.members[number];
        let card = std::fs::read(member.data.join("store/member"))?;
        let card: serde_json::Value = serde_json::from_slice(&card)?;
        let pki = |name: &str| std::fs::read(member.data.join("pki").join(name));
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(pki("ca.crt")?))
            .identity(tonic::transport::Identity::from_pem(
                pki("member.crt")?,
                pki("member.key")?,
            ))
            .domain_name(MEMBER_NAME);
        let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{}", member.peer_port))?;
        let channel = endpoint
            .tls_config(tls)?
            .tcp_nodelay(true)
            .connect()
            .await?;
        let id = card["id"].as_u64().context("the member's id")?;
        Ok(Peer {
            client: PeersClient::new(channel),
            header: pb::Header {
                protocol: PROTOCOL,
                cluster: card["cluster"].as_str().context("the cluster")?.to_owned(),
                from: id,
                to: id,
            },
        })
    }

    pub(super) fn cpu_seconds(&self) -> f64 {
        let processes = self.members.iter().filter_map(|it| it.process.as_ref());
        processes.map(Process::cpu_seconds).sum()
    }
}

/// The first start writes it when it serves.
async fn await_file(member: &mut Member) -> anyhow::Result<()> {
    let began = Instant::now();
    while !member.kubeconfig().exists() {
        ensure!(began.elapsed() < PATIENCE, "{} does not serve", member.name);
        if let Some(process) = &mut member.process {
            process.check()?;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// A client of the API that writes and reads ConfigMaps.
pub(super) struct ApiSession {
    connection: Connection,
}

pub(super) fn config_map(number: u32, value: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"k-{number:04}","namespace":"{NAMESPACE}"}},"data":{{"value":"{value}"}}}}"#
    )
}

fn config_map_path(number: u32) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/configmaps/k-{number:04}")
}

impl ApiSession {
    /// Makes a ConfigMap that is not there yet.
    pub(super) async fn create(&mut self, number: u32, value: &str) -> anyhow::Result<()> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
        let body = config_map(number, value);
        self.connection.ask(Method::POST, &path, body).await?;
        Ok(())
    }
}

impl Session for ApiSession {
    async fn write(&mut self, number: u32, value: &str) -> anyhow::Result<()> {
        let body = config_map(number, value);
        self.connection
            .ask(Method::PUT, &config_map_path(number), body)
            .await?;
        Ok(())
    }

    async fn read(&mut self, number: u32) -> anyhow::Result<()> {
        self.connection
            .ask(Method::GET, &config_map_path(number), "")
            .await?;
        Ok(())
    }
}
