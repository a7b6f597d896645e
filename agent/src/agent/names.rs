//! The DNS server's sockets: those that the agent before left, or new ones with a process that keeps them.

use std::path::Path;

use super::{AgentConfig, AgentError, DNS_LISTEN};
use crate::dns::keeper::Keeper;
use crate::dns::{DnsError, DnsSockets};

/// Below the run directory.
pub(super) const DIRECTORY: &str = "dns";

/// Without a keeper all works but a restart, over which questions are refused: worth a warning, no more.
pub(super) async fn sockets(
    config: &AgentConfig,
) -> Result<(DnsSockets, Option<Keeper>), AgentError> {
    let directory = config.run_dir.join(DIRECTORY);
    if let Some((keeper, sockets)) = adopt(&directory) {
        return Ok((sockets, Some(keeper)));
    }
    let sockets = DnsSockets::bind(DNS_LISTEN).map_err(|source| DnsError::Listen {
        address: DNS_LISTEN,
        source,
    })?;
    let cgroups = crate::runtime::supervisor_cgroups(&config.cgroup_parent).unwrap_or_default();
    let program = &config.supervisor_program;
    let keeper = match Keeper::start(program, &directory, &cgroups, &sockets).await {
        Ok(keeper) => Some(keeper),
        Err(error) => {
            tracing::warn!(%error, "nobody keeps the DNS sockets over a restart");
            None
        }
    };
    Ok((sockets, keeper))
}

fn adopt(directory: &Path) -> Option<(Keeper, DnsSockets)> {
    match Keeper::adopt(directory) {
        Ok(Some((keeper, sockets))) => {
            if sockets.address().is_ok_and(|at| at == DNS_LISTEN) && sockets.are_of_this_network() {
                tracing::info!("DNS goes on with the sockets of the agent before");
                return Some((keeper, sockets));
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
