//! Arguments of the control plane that `waggle dev` and `waggle controller` share.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use controlplane::{
    AuditConfig, ControllerConfig, NodeEviction, NodeRanges, PeerSettings, Termination, TokenConfig,
};

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
    /// A node that is not heard of for this long is unreachable: its pods leave the Services, and go as their
    /// tolerationSeconds say.
    #[arg(long, value_name = "DURATION", default_value = "40s", value_parser = grace)]
    node_monitor_grace_period: Duration,
    /// Nodes a second, in each zone, whose pods go because the node is not ready.
    #[arg(long, value_name = "RATE", default_value_t = 0.1, value_parser = rate)]
    node_eviction_rate: f64,
    /// The same for a large zone of which too many nodes are not ready; in a small one the pods stay.
    #[arg(long, value_name = "RATE", default_value_t = 0.01, value_parser = rate)]
    secondary_node_eviction_rate: f64,
    /// Share of a zone's nodes that are not ready, 0 to 1, from which there are too many.
    #[arg(long, value_name = "SHARE", default_value_t = 0.55, value_parser = share)]
    unhealthy_zone_threshold: f64,
    /// Nodes of a zone above which it is large.
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    large_cluster_size_threshold: usize,
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
    /// Write who asked what to this file, one JSON object a line; - is standard output.
    #[arg(long, value_name = "FILE", visible_alias = "audit-log-path")]
    audit_log: Option<PathBuf>,
    /// Policy (audit.k8s.io/v1) that says how much is written; everything's metadata by default.
    #[arg(long, value_name = "FILE")]
    audit_policy_file: Option<PathBuf>,
    /// MiB after which a new audit log is begun; 0 never.
    #[arg(long, value_name = "MIB", default_value_t = 100)]
    audit_log_maxsize: u64,
    /// Old audit logs that are kept; 0 all.
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    audit_log_maxbackup: usize,
    /// Days that old audit logs are kept; 0 for ever.
    #[arg(long, value_name = "DAYS", default_value_t = 0)]
    audit_log_maxage: u64,
    /// How many requests are worked on at once; priority levels share them.
    #[arg(long, value_name = "NUMBER", default_value_t = 600)]
    max_requests_inflight: usize,
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
            node_grace: self.node_monitor_grace_period,
            node_eviction: NodeEviction {
                rate: self.node_eviction_rate,
                secondary_rate: self.secondary_node_eviction_rate,
                unhealthy_share: self.unhealthy_zone_threshold,
                large_zone: self.large_cluster_size_threshold,
            },
            node_ports: self.service_node_port_range.clone(),
            node_ranges: NodeRanges {
                ipv4: self.node_cidr_mask_size_ipv4,
                ipv6: self.node_cidr_mask_size_ipv6,
            },
            audit: AuditConfig {
                log: self.audit_log.clone(),
                policy: self.audit_policy_file.clone(),
                max_size: self.audit_log_maxsize,
                max_backup: self.audit_log_maxbackup,
                max_age: self.audit_log_maxage,
            },
            max_requests: self.max_requests_inflight,
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

/// Long enough for some heart-beats.
fn grace(text: &str) -> Result<Duration, String> {
    let least = Duration::from_secs(1);
    let grace = duration(text)?;
    if grace < least {
        return Err("it is less than 1s".to_owned());
    }
    Ok(grace)
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if rate.is_finite() && rate >= 0.0 {
        Ok(rate)
    } else {
        Err("it is no number of nodes a second".to_owned())
    }
}

fn share(text: &str) -> Result<f64, String> {
    match rate(text) {
        Ok(share) if share <= 1.0 => Ok(share),
        _ => Err("it is not from 0 to 1".to_owned()),
    }
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
        assert!(grace("0s").is_err() && grace("5s").is_ok());
        assert!(rate("-1").is_err() && rate("NaN").is_err() && rate("0.1") == Ok(0.1));
        assert!(share("1.5").is_err() && share("0.55") == Ok(0.55));
        assert!(duration("-1s").is_err() && duration("soon").is_err());
        assert_eq!(ports("30000-32767"), Ok(30000..=32767));
        for wrong in ["30000", "0-5", "9-8", "1-70000", "a-b"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }
}
