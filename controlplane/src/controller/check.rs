//! Settings that cannot work are refused before anything is opened. Pure. The messages name the arguments of
//! `waggle controller` and `waggle dev`, which is where the settings come from.

use ipnet::IpNet;

use super::ControllerConfig;
use crate::registry::bootstrap::first_address;
use crate::registry::node_ranges::overlap;

const SERVICES: &str = "--service-cidr";
const PODS: &str = "--pod-cidr";

/// # Errors
/// What is wrong, as a sentence.
pub(super) fn check(config: &ControllerConfig) -> Result<(), String> {
    let dns = config.cluster_dns;
    let Some(first) = config.service_cidrs.first() else {
        return Err(format!("{SERVICES}: no Service range is given"));
    };
    if !first.contains(&dns) {
        return Err(format!(
            "--cluster-dns: {dns} is not in the first Service range, {SERVICES} {first}"
        ));
    }
    if first_address(first).is_none_or(|address| address == dns) {
        return Err(format!(
            "{SERVICES}: {first} has no room for the API and the cluster DNS address {dns}"
        ));
    }
    apart(SERVICES, &config.service_cidrs)?;
    apart(PODS, &config.pod_cidrs)?;
    for services in &config.service_cidrs {
        for pods in &config.pod_cidrs {
            if overlap(services, pods) {
                return Err(format!("{SERVICES} {services} and {PODS} {pods} overlap"));
            }
        }
    }
    let lengths = config.node_ranges;
    for (name, length, family, least, most) in [
        ("--node-cidr-mask-size-ipv4", lengths.ipv4, "IPv4", 8, 30),
        ("--node-cidr-mask-size-ipv6", lengths.ipv6, "IPv6", 16, 126),
    ] {
        if !(least..=most).contains(&length) {
            return Err(format!(
                "{name}: {length} is not between {least} and {most}, the prefix lengths of {family} ranges \
                 that nodes can have"
            ));
        }
    }
    if config.node_ports.is_empty() {
        return Err("--service-node-port-range: it is empty".to_owned());
    }
    Ok(())
}

/// One range of each family at most.
fn apart(name: &str, ranges: &[IpNet]) -> Result<(), String> {
    for (index, one) in ranges.iter().enumerate() {
        for other in &ranges[index + 1..] {
            if one.max_prefix_len() == other.max_prefix_len() {
                return Err(format!(
                    "{name}: {one} and {other} are of one family; there can be one IPv4 and one IPv6 range"
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn refused(change: impl FnOnce(&mut ControllerConfig)) -> String {
        let mut config = crate::api::tests::config(std::path::Path::new("/nowhere"));
        assert_eq!(check(&config), Ok(()));
        change(&mut config);
        check(&config).unwrap_err()
    }

    fn ranges(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn ranges_that_overlap_are_refused_with_the_name_of_the_argument() {
        let pods = |texts: &[&str]| {
            let texts = ranges(texts);
            refused(|config| config.pod_cidrs = texts)
        };
        assert_eq!(
            pods(&["10.0.0.0/8"]),
            "--service-cidr 10.96.0.0/24 and --pod-cidr 10.0.0.0/8 overlap"
        );
        assert_eq!(
            pods(&["10.244.0.0/16", "fd00:96::1000/116"]),
            "--service-cidr fd00:96::/112 and --pod-cidr fd00:96::1000/116 overlap"
        );
        assert_eq!(
            pods(&["10.244.0.0/16", "10.245.0.0/16"]),
            "--pod-cidr: 10.244.0.0/16 and 10.245.0.0/16 are of one family; there can be one IPv4 and one \
             IPv6 range"
        );
        let services = ranges(&["10.96.0.0/24", "10.97.0.0/24"]);
        let twice = refused(|config| config.service_cidrs = services);
        assert!(
            twice.starts_with("--service-cidr: 10.96.0.0/24 and "),
            "{twice}"
        );
    }

    #[test]
    fn other_settings_that_cannot_work_are_refused_with_the_name_of_the_argument() {
        let none = refused(|config| config.service_cidrs.clear());
        assert!(none.starts_with("--service-cidr: "), "{none}");
        let dns = refused(|config| config.cluster_dns = "192.0.2.1".parse().unwrap());
        assert!(dns.starts_with("--cluster-dns: 192.0.2.1 "), "{dns}");
        let api = refused(|config| config.cluster_dns = "10.96.0.1".parse().unwrap());
        assert!(api.starts_with("--service-cidr: 10.96.0.0/24 "), "{api}");
        let length = refused(|config| config.node_ranges.ipv4 = 31);
        assert!(
            length.starts_with("--node-cidr-mask-size-ipv4: 31 "),
            "{length}"
        );
        let length = refused(|config| config.node_ranges.ipv6 = 127);
        assert!(
            length.starts_with("--node-cidr-mask-size-ipv6: 127 "),
            "{length}"
        );
    }
}
