//! `/etc/hosts` and `/etc/resolv.conf` of a pod, as text. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

/// resolv.conf(5) of glibc: no more than these are used.
const MOST_NAMESERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;
const LONGEST_SEARCH_LINE: usize = 2048;

/// What a resolv.conf says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resolver {
    pub(crate) nameservers: Vec<String>,
    pub(crate) searches: Vec<String>,
    pub(crate) options: Vec<String>,
}

impl Resolver {
    /// Leaves out what would not be used, and tells of it in the words of the kubelet.
    fn bound(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        if self.nameservers.len() > MOST_NAMESERVERS {
            self.nameservers.truncate(MOST_NAMESERVERS);
            told.push(format!(
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
                self.nameservers.join(" ")
            ));
        }
        let asked = self.searches.len();
        self.searches.truncate(MOST_SEARCHES);
        let mut length = 0;
        self.searches.retain(|search| {
            length += search.len() + 1;
            length <= LONGEST_SEARCH_LINE
        });
        if self.searches.len() < asked {
            told.push(format!(
                "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
                self.searches.join(" ")
            ));
        }
        told
    }

    /// Reads a resolv.conf; what is not understood is passed over.
    pub(crate) fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolver.nameservers.extend(words.next().map(str::to_owned)),
                Some("search") => resolver.searches = words.map(str::to_owned).collect(),
                Some("options") => resolver.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        resolver
    }

    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        if !self.searches.is_empty() {
            out.push_str("search ");
            out.push_str(&self.searches.join(" "));
            out.push('\n');
        }
        for nameserver in &self.nameservers {
            out.push_str("nameserver ");
            out.push_str(nameserver);
            out.push('\n');
        }
        if !self.options.is_empty() {
            out.push_str("options ");
            out.push_str(&self.options.join(" "));
            out.push('\n');
        }
        out
    }
}

/// The pod's resolver by its `dnsPolicy` and `dnsConfig`, and what is to be said of what has no room in it.
pub(crate) fn resolver(
    spec: &PodSpec,
    namespace: &str,
    domain: &str,
    cluster_dns: IpAddr,
    host: &Resolver,
) -> (Resolver, Vec<String>) {
    let host_network = spec.host_network == Some(true);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let mut resolver = match policy {
        "None" => Resolver::default(),
        "Default" => host.clone(),
        "ClusterFirst" if host_network => host.clone(),
        _ => {
            let mut searches = vec![
                format!("{namespace}.svc.{domain}"),
                format!("svc.{domain}"),
                domain.to_owned(),
            ];
            searches.extend(host.searches.iter().cloned());
            Resolver {
                nameservers: vec![cluster_dns.to_string()],
                searches,
                options: vec!["ndots:5".to_owned()],
            }
        }
    };
    if let Some(config) = &spec.dns_config {
        resolver
            .nameservers
            .extend(config.nameservers.iter().flatten().cloned());
        resolver
            .searches
            .extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            let has_name = |known: &String| known.split(':').next() == Some(name);
            resolver.options.retain(|known| !has_name(known));
            resolver.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
        }
    }
    unique(&mut resolver.nameservers);
    unique(&mut resolver.searches);
    let left_out = resolver.bound();
    (resolver, left_out)
}

fn unique(values: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    values.retain(|value| seen.insert(value.clone()));
}

/// The hostname inside the pod: its full name where that is asked for.
pub(crate) fn kernel_hostname(pod: &Pod, node_hostname: &str, domain: &str) -> String {
    let short = hostname(pod, node_hostname);
    let spec = pod.spec.as_ref();
    let asked = spec
        .is_some_and(|it| it.set_hostname_as_fqdn == Some(true) && it.host_network != Some(true));
    let subdomain = spec.and_then(|spec| spec.subdomain.as_deref());
    match subdomain.filter(|subdomain| asked && !subdomain.is_empty()) {
        Some(subdomain) => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
            format!("{short}.{subdomain}.{namespace}.svc.{domain}")
        }
        None => short,
    }
}

/// The hostname inside the pod.
pub(crate) fn hostname(pod: &Pod, node_hostname: &str) -> String {
    let spec = pod.spec.as_ref();
    if let Some(name) = spec.and_then(|spec| spec.hostname_override.as_deref()) {
        return name.to_owned();
    }
    if spec.is_some_and(|spec| spec.host_network == Some(true)) {
        return node_hostname.to_owned();
    }
    let name = spec
        .and_then(|spec| spec.hostname.as_deref())
        .filter(|name| !name.is_empty())
        .or(pod.metadata.name.as_deref())
        .unwrap_or("pod");
    // The kernel takes no more than 64 bytes, Kubernetes gives 63.
    let end = name
        .char_indices()
        .map(|(at, c)| at + c.len_utf8())
        .take_while(|end| *end <= 63)
        .last()
        .unwrap_or(0);
    name[..end].trim_end_matches(['-', '.']).to_owned()
}

/// What the first line of `/etc/hosts` begins with: programs tell by it whether the file is the node's.
const MANAGED: &str = "Kubernetes-managed hosts file";

/// `/etc/hosts` of a pod with a network of its own; `host` is the node's file for the others.
pub(crate) fn hosts(
    pod: &Pod,
    hostname: &str,
    domain: &str,
    addresses: &[IpAddr],
    host: &str,
) -> String {
    let spec = pod.spec.as_ref();
    let mut out = if spec.is_some_and(|spec| spec.host_network == Some(true)) {
        let mut out = format!("# {MANAGED} (host network).\n{host}");
        if !out.ends_with('\n') {
            out.push('\n');
        }
        out
    } else {
        let mut out = format!(
            "# {MANAGED}.\n\
             127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\n\
             fe00::0\tip6-mcastprefix\n\
             fe00::1\tip6-allnodes\n\
             fe00::2\tip6-allrouters\n",
        );
        let subdomain = spec
            .and_then(|spec| spec.subdomain.as_deref())
            .filter(|subdomain| !subdomain.is_empty());
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        for address in addresses {
            match subdomain {
                Some(subdomain) => out.push_str(&format!(
                    "{address}\t{hostname}.{subdomain}.{namespace}.svc.{domain}\t{hostname}\n"
                )),
                None => out.push_str(&format!("{address}\t{hostname}\n")),
            }
        }
        out
    };
    let aliases = spec.and_then(|spec| spec.host_aliases.as_deref());
    let aliases = aliases.unwrap_or_default();
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names = alias
            .hostnames
            .iter()
            .flatten()
            .cloned()
            .collect::<Vec<_>>();
        out.push_str(&format!("{}\t{}\n", alias.ip, names.join("\t")));
    }
    out
}

#[cfg(test)]
mod tests;
