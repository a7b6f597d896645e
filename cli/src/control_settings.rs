//! Arguments of the control plane that `waggle dev` and `waggle controller` share.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use controlplane::{ControllerConfig, NodeRanges, PeerSettings, Termination, TokenConfig};

use crate::settings::ClusterSettings;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ControlSettings {
    /// How long a pod that is being deleted keeps running at the most until all connected nodes have
    /// acknowledged that it is no endpoint any more; 0s tells it at once.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    termination_wait: Duration,
    /// How long it keeps running after that, for requests that are under way.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    termination_drain: Duration,
    /// Ports that node ports of Services are taken from, FIRST-LAST.
    #[arg(long, value_name = "FIRST-LAST", default_value = "30000-32767", value_parser = ports)]
    service_node_port_range: RangeInclusive<u16>,
    /// Prefix length of the IPv4 range that each node gets for its pods.
    #[arg(
        long,
        value_name = "LENGTH",
        default_value_t = 24,
        visible_alias = "node-cidr-mask-size"
    )]
    node_cidr_mask_size_ipv4: u8,
    /// Prefix length of the IPv6 range that each node gets for its pods.
    #[arg(long, value_name = "LENGTH", default_value_t = 64)]
    node_cidr_mask_size_ipv6: u8,
    /// Issuer of service-account tokens; https://kubernetes.default.svc.CLUSTER-DOMAIN by default.
    #[arg(long, value_name = "URL", default_value = "")]
    service_account_issuer: String,
    /// What the API calls itself in tokens; the issuer by default.
    #[arg(long, value_name = "AUDIENCE", value_delimiter = ',')]
    api_audiences: Vec<String>,
    /// Longest life of a token, whatever is asked for; 0s is no limit.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    service_account_max_token_expiration: Duration,
}

/// Who the member is to the others.
#[derive(Debug, Clone)]
pub(crate) struct MemberSettings {
    pub(crate) name: String,
    pub(crate) peers: Option<PeerSettings>,
    pub(crate) advertise: Option<SocketAddr>,
}

impl MemberSettings {
    /// For a control plane of one.
    pub(crate) fn alone() -> anyhow::Result<Self> {
        Ok(Self {
            name: host_name()?,
            peers: None,
            advertise: None,
        })
    }
}

/// This machine's name.
pub(crate) fn host_name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname()?;
    Ok(name.to_string_lossy().into_owned())
}

impl ControlSettings {
    /// What a member is started with.
    pub(crate) fn config(
        &self,
        cluster: &ClusterSettings,
        data_dir: PathBuf,
        listen: SocketAddr,
        extra_sans: Vec<String>,
        member: MemberSettings,
    ) -> anyhow::Result<ControllerConfig> {
        Ok(ControllerConfig {
            name: member.name,
            peers: member.peers,
            advertise: member.advertise,
            data_dir,
            listen,
            extra_sans,
            service_cidrs: cluster.service_cidrs.clone(),
            pod_cidrs: cluster.pod_cidrs.clone(),
            cluster_domain: cluster.cluster_domain.clone(),
            cluster_dns: cluster.cluster_dns()?,
            termination: Termination {
                wait: self.termination_wait,
                drain: self.termination_drain,
            },
            node_ports: self.service_node_port_range.clone(),
            node_ranges: NodeRanges {
                ipv4: self.node_cidr_mask_size_ipv4,
                ipv6: self.node_cidr_mask_size_ipv6,
            },
            tokens: TokenConfig {
                issuer: self.service_account_issuer.clone(),
                audiences: self.api_audiences.clone(),
                max_expiration: i64::try_from(self.service_account_max_token_expiration.as_secs())?,
            },
        })
    }
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let signed: jiff::SignedDuration = text.parse().map_err(|error| format!("{error}"))?;
    Duration::try_from(signed).map_err(|_| "it is negative".to_owned())
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text
        .split_once('-')
        .ok_or_else(|| format!("{text:?} is not FIRST-LAST"))?;
    let number = |text: &str| {
        let port: u16 = text
            .trim()
            .parse()
            .map_err(|error| format!("{text:?}: {error}"))?;
        if port == 0 {
            Err("port 0 cannot be used".to_owned())
        } else {
            Ok(port)
        }
    };
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!("{first} is greater than {last}"));
    }
    Ok(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_port_ranges_are_read_or_refused() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert!(duration("-1s").is_err() && duration("soon").is_err());
        assert_eq!(ports("30000-32767"), Ok(30000..=32767));
        for wrong in ["30000", "0-5", "9-8", "1-70000", "a-b"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }
}
