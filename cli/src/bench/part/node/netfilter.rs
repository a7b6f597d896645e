//! iptables and nftables, through their own programs, as kube-proxy drives them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use super::{IptablesKind, Tracked, timed};
use crate::bench::services::{Change, Family, Table};
use crate::bench::{iptables, nftables};

/// Runs a program with a file as its standard input.
fn run(command: &mut Command, input: &Path) -> anyhow::Result<()> {
    let file = std::fs::File::open(input)?;
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(file)
        .stdout(Stdio::null())
        .output()
        .with_context(|| format!("start {name}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(
        output.status.success(),
        "{name} failed: {}",
        errors.lines().take(3).collect::<Vec<_>>().join("; ")
    );
    Ok(())
}

/// Writes an input before the clock starts.
fn input(directory: &Path, text: &str) -> anyhow::Result<PathBuf> {
    let path = directory.join("rules");
    std::fs::write(&path, text)?;
    Ok(path)
}

/// Name of the program that restores a table.
pub(crate) fn restore_program(kind: IptablesKind, family: Family) -> &'static str {
    match (kind, family) {
        (IptablesKind::Default, Family::V4) => "iptables-restore",
        (IptablesKind::Default, Family::V6) => "ip6tables-restore",
        (IptablesKind::Nft, Family::V4) => "iptables-nft-restore",
        (IptablesKind::Nft, Family::V6) => "ip6tables-nft-restore",
        (IptablesKind::Legacy, Family::V4) => "iptables-legacy-restore",
        (IptablesKind::Legacy, Family::V6) => "ip6tables-legacy-restore",
    }
}

pub(super) struct Iptables {
    directory: PathBuf,
    program: &'static str,
}

impl Iptables {
    pub(super) fn new(directory: &Path, kind: IptablesKind, table: &Table) -> Self {
        Self {
            directory: directory.to_owned(),
            program: restore_program(kind, table.family),
        }
    }

    fn restore(&self, arguments: &[&str], text: &str) -> anyhow::Result<Duration> {
        let input = input(&self.directory, text)?;
        let mut command = Command::new(self.program);
        command.args(["-w", "5"]).args(arguments);
        // The lock of the machine's own tables is none of ours.
        command.env("XTABLES_LOCKFILE", self.directory.join("lock"));
        timed(|| run(&mut command, &input))
    }

    pub(super) fn load(&self, table: &Table) -> anyhow::Result<Duration> {
        self.restore(&[], &iptables::load(table))
    }

    pub(super) fn clear(&self) -> anyhow::Result<()> {
        self.restore(&[], iptables::EMPTY).map(|_| ())
    }

    pub(super) fn change(&self, table: &Table, change: &Change) -> anyhow::Result<Duration> {
        self.restore(
            &["--noflush", "--counters"],
            &iptables::change(table, change),
        )
    }
}

pub(super) struct Nftables {
    directory: PathBuf,
}

impl Nftables {
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    fn transaction(&self, text: &str) -> anyhow::Result<Duration> {
        let input = input(&self.directory, text)?;
        timed(|| run(Command::new("nft").args(["-f", "-"]), &input))
    }

    pub(super) fn load(&self, table: &Table) -> anyhow::Result<Duration> {
        nftables::load(table)
            .iter()
            .map(|text| self.transaction(text))
            .sum()
    }

    pub(super) fn clear(&self, table: &Table) -> anyhow::Result<()> {
        self.transaction(&nftables::delete(table)).map(|_| ())
    }

    pub(super) fn change(
        &self,
        table: &Table,
        change: &Change,
        previous: Option<&Change>,
    ) -> anyhow::Result<Duration> {
        self.transaction(&nftables::change(table, change, previous))
    }
}

/// Counts lines of `/proc/net/nf_conntrack`: all, and those that lead from one address to another.
pub(super) fn tracked(text: &str, from: IpAddr, to: IpAddr) -> Tracked {
    let mut found = Tracked {
        connections: 0,
        translated: 0,
    };
    for line in text.lines() {
        found.connections += 1;
        let addresses = |name: &str| -> Vec<IpAddr> {
            line.split_whitespace()
                .filter_map(|word| word.strip_prefix(name)?.parse().ok())
                .collect()
        };
        // Once for each direction: asked for one address, answered by the other.
        if addresses("dst=").first() == Some(&from) && addresses("src=").get(1) == Some(&to) {
            found.translated += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn translated_connections_are_told_from_others() {
        let text = "\
ipv4     2 tcp      6 119 TIME_WAIT src=10.244.0.1 dst=10.96.1.9 sport=40000 dport=80 src=10.244.0.2 dst=10.244.0.1 sport=8081 dport=40000 [ASSURED] mark=0 use=1
ipv4     2 tcp      6 119 TIME_WAIT src=10.244.0.1 dst=10.244.0.2 sport=40001 dport=8081 src=10.244.0.2 dst=10.244.0.1 sport=8081 dport=40001 [ASSURED] mark=0 use=1
";
        let found = tracked(
            text,
            "10.96.1.9".parse().unwrap(),
            "10.244.0.2".parse().unwrap(),
        );
        assert_eq!((found.connections, found.translated), (2, 1));
    }
}
