//! The DNS server's sockets: those that the agent before left, or new ones with a process that keeps them.

use std::net::SocketAddr;
use std::path::Path;

use super::{AgentConfig, AgentError, dns_listen};
use crate::dns::keeper::Keeper;
use crate::dns::{DnsError, DnsSockets};

/// Below the run directory.
pub(super) const DIRECTORY: &str = "dns";

/// Without a keeper all works but a restart, over which questions are refused: worth a warning, no more.
pub(super) async fn sockets(
    config: &AgentConfig,
) -> Result<(DnsSockets, Option<Keeper>), AgentError> {
    let directory = config.run_dir.join(DIRECTORY);
    let listen = dns_listen(config);
    let mut sockets = match adopt(&directory, listen) {
        Some((Some(keeper), sockets)) => return Ok((sockets, Some(keeper))),
        Some((None, sockets)) => sockets,
        None => DnsSockets::bind(listen).map_err(|source| DnsError::Listen {
            address: listen,
            source,
        })?,
    };
    let cgroups = crate::runtime::supervisor_cgroups(&config.cgroup_parent).unwrap_or_default();
    let program = &config.program;
    let keeper = match Keeper::start(program, &directory, &cgroups, &sockets).await {
        Ok(keeper) => {
            sockets.custody = keeper.custody().ok();
            Some(keeper)
        }
        Err(error) => {
            tracing::warn!(%error, "nobody keeps the DNS sockets over a restart");
            None
        }
    };
    Ok((sockets, keeper))
}

/// The sockets, and their keeper unless it is an older one, which knows less than is to be kept: that one ends.
fn adopt(directory: &Path, listen: SocketAddr) -> Option<(Option<Keeper>, DnsSockets)> {
    match Keeper::adopt(directory) {
        Ok(Some((keeper, sockets, is_whole))) => {
            if sockets.address().is_ok_and(|at| at == listen) && sockets.are_of_this_network() {
                tracing::info!("DNS goes on with the sockets of the agent before");
                if is_whole {
                    return Some((Some(keeper), sockets));
                }
                keeper.end();
                return Some((None, sockets));
            }
            // Another network's or another version's.
            keeper.end();
            None
        }
        Ok(None) => None,
        Err(error) => {
            tracing::warn!(%error, "the DNS sockets of the agent before are not to be had");
            None
        }
    }
}
