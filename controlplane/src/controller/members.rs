//! This process as a member of the group: who it is, where the others reach it, and how it became one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{ControllerConfig, StartError, endpoints, prepare};
use crate::api::members::{Admission, JoinRequest};
use crate::auth::{MemberTls, is_member};
use crate::store::backup::{self, SnapshotInfo};
use crate::store::{Card, Node, PeerConfig, Start, Store, StoreConfig, StoreError};

/// Where a member listens for the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSettings {
    pub listen: SocketAddr,
    /// Where they reach it, host:port; found out where it is not given.
    pub address: Option<String>,
}

/// How often a member that runs looks whether its certificate ends soon.
const LOOK_EVERY: Duration = Duration::from_secs(12 * 3600);

fn store_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("store")
}

fn pki_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("pki")
}

fn store_error(dir: &Path, error: StoreError) -> StartError {
    match error {
        StoreError::Locked { dir, holder } => StartError::InUse { path: dir, holder },
        other => StartError::Store {
            path: dir.to_owned(),
            why: other.to_string(),
        },
    }
}

/// Whether the data directory is that of a member, of whichever cluster.
///
/// # Errors
/// When it is of a version that this one does not know.
pub fn has_member(data_dir: &Path) -> Result<bool, StartError> {
    let dir = store_dir(data_dir);
    let card = Card::read(&dir).map_err(|error| store_error(&dir, error))?;
    Ok(card.is_some() || dir.join("data").exists())
}

/// What this machine says to become a member.
pub fn join_request(config: &ControllerConfig) -> JoinRequest {
    let node = describe(config, config.peers.as_ref().map(|peers| peers.listen));
    JoinRequest {
        name: node.name,
        peer_address: node.address,
        api_address: node.api_address,
    }
}

/// What the others are to know of this member, which listens for them there.
fn describe(config: &ControllerConfig, listening: Option<SocketAddr>) -> Node {
    let given = config
        .peers
        .as_ref()
        .and_then(|peers| peers.address.clone());
    let (address, api_address) = match listening {
        None => (String::new(), String::new()),
        Some(listening) => {
            let api = match config.advertise {
                Some(address) => address.to_string(),
                None if config.listen.port() == 0 => String::new(),
                None => reached_at(config.listen),
            };
            (given.unwrap_or_else(|| reached_at(listening)), api)
        }
    };
    Node {
        name: config.name.clone(),
        address,
        api_address,
    }
}

/// Makes the data directory that of the member that was admitted. The next start joins the cluster.
///
/// # Errors
/// When the directory cannot be written.
pub fn accept_admission(data_dir: &Path, admission: &Admission) -> Result<(), StartError> {
    prepare(data_dir)?;
    let pki = pki_dir(data_dir);
    for (name, text) in &admission.files {
        crate::auth::write_shared(&pki, name, text)?;
    }
    let dir = store_dir(data_dir);
    let card = Card::new(admission.id, &admission.cluster, admission.since);
    card.write(&dir).map_err(|error| store_error(&dir, error))
}

/// Makes the data directory that of a new cluster with the snapshot's contents.
///
/// # Errors
/// When there is a store already, or the file is not whole.
pub fn restore_snapshot(file: &Path, data_dir: &Path) -> Result<SnapshotInfo, StartError> {
    prepare(data_dir)?;
    let dir = store_dir(data_dir);
    backup::restore(file, &dir).map_err(|error| store_error(&dir, error))
}

/// What is in the file, all of which is read and checked.
///
/// # Errors
/// When it is not whole.
pub fn inspect_snapshot(file: &Path) -> Result<SnapshotInfo, StartError> {
    backup::inspect(file).map_err(|error| store_error(file, error))
}

/// Waits until the store can serve; with other members that takes a majority of them.
pub(super) async fn await_store(
    config: &ControllerConfig,
    store: &Store,
) -> Result<(), StartError> {
    let dir = store_dir(&config.data_dir);
    let ready = store.ready().await;
    ready.map_err(|error| store_error(&dir, error))
}

/// The store, which is not ready to serve yet.
pub(super) async fn begin_store(
    config: &ControllerConfig,
    stop: &CancellationToken,
) -> Result<Store, StartError> {
    let dir = store_dir(&config.data_dir);
    let failed = |error| store_error(&dir, error);
    let card = Card::ensure(&dir).map_err(failed)?;
    let mut listening = None;
    let peers = match &config.peers {
        None => None,
        Some(settings) => {
            let listen_error = |source| StartError::Listen {
                address: settings.listen,
                source,
            };
            let listener = TcpListener::bind(settings.listen)
                .await
                .map_err(listen_error)?;
            listening = Some(listener.local_addr().map_err(listen_error)?);
            let now = jiff::Timestamp::now();
            let tls = MemberTls::open(&pki_dir(&config.data_dir), card.id, now)?;
            tokio::spawn(keep_renewed(tls.clone(), stop.clone()));
            Some(PeerConfig {
                listener,
                server: tls.server,
                client: tls.client,
                name: tls.name,
                is_member: Arc::new(is_member),
            })
        }
    };
    let start = match card.since {
        0 => Start::Found,
        _ => Start::Join,
    };
    let store = Store::begin(StoreConfig {
        dir: dir.clone(),
        identity: card.identity(),
        node: describe(config, listening),
        start,
        peers,
    });
    store.await.map_err(failed)
}

/// The address that others use for what listens here; empty where there is none.
fn reached_at(listening: SocketAddr) -> String {
    if listening.ip().is_loopback() {
        return listening.to_string();
    }
    let ways = endpoints(listening);
    ways.first().map(ToString::to_string).unwrap_or_default()
}

async fn keep_renewed(tls: MemberTls, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if let Err(error) = tls.renew(jiff::Timestamp::now()) {
            tracing::error!(%error, "the member's certificate was not renewed");
        }
    }
}
