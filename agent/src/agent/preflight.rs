//! What must be there before anything is touched. Kernel features of the data plane are its own to check.

use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::{AgentConfig, AgentError};
use crate::pods::{DEFAULT_HANDLER, Handlers, Resolver};
use crate::runtime::OciRuntime;

/// The oldest runc that does what is asked of it.
const RUNC_MINIMUM: &str = "1.1.0";

/// Capabilities by bit, as in linux/capability.h.
const CAPABILITIES: [(u32, &str); 6] = [
    (21, "CAP_SYS_ADMIN"),
    (12, "CAP_NET_ADMIN"),
    (0, "CAP_CHOWN"),
    (5, "CAP_KILL"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
];

/// What was found of the programs that run containers.
#[derive(Debug)]
pub(super) struct Runtimes {
    pub(super) runc_version: String,
    pub(super) handlers: Handlers,
}

/// Checks the machine and makes the directories.
pub(super) async fn check(config: &AgentConfig) -> Result<Runtimes, AgentError> {
    let uid = nix::unistd::geteuid();
    if !uid.is_root() {
        return Err(AgentError::NotRoot(uid.as_raw()));
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(missing) = missing_capability(&status) {
        return Err(AgentError::Capability(missing));
    }
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    for wanted in ["overlay", "tmpfs", "bpf"] {
        if !has_filesystem(&filesystems, wanted) {
            return Err(AgentError::NoFileSystem(wanted));
        }
    }
    if config.cgroup_attach.is_none() && find_unified().is_none() {
        return Err(AgentError::NoCgroup2);
    }
    for dir in [&config.data_dir, &config.run_dir] {
        std::fs::create_dir_all(dir).map_err(|source| AgentError::Directory {
            path: dir.clone(),
            source,
        })?;
    }
    let socket = config.run_dir.join(super::local::SOCKET);
    if tokio::net::UnixStream::connect(&socket).await.is_ok() {
        return Err(AgentError::Running {
            path: config.run_dir.clone(),
        });
    }
    Ok(Runtimes {
        runc_version: runc_version().await?,
        handlers: handlers(&config.pods.runtime_handlers).await?,
    })
}

/// The table of handlers: those that are configured must be there, crun may be.
async fn handlers(configured: &[(String, PathBuf)]) -> Result<Handlers, AgentError> {
    let mut handlers = Handlers::from([(DEFAULT_HANDLER.to_owned(), OciRuntime::default())]);
    if let Ok(crun) = oci_runtime(Path::new("crun")).await {
        handlers.insert("crun".to_owned(), crun);
    }
    for (handler, program) in configured {
        let runtime = oci_runtime(program).await;
        let runtime = runtime.map_err(|detail| AgentError::Handler {
            handler: handler.clone(),
            program: program.clone(),
            detail,
        })?;
        handlers.insert(handler.clone(), runtime);
    }
    Ok(handlers)
}

async fn oci_runtime(program: &Path) -> Result<OciRuntime, String> {
    let output = tokio::process::Command::new(program)
        .arg("--version")
        .stdin(std::process::Stdio::null())
        .output();
    match output.await {
        Ok(output) if output.status.success() => Ok(OciRuntime {
            program: program.to_owned(),
            refuses_hybrid: output.stdout.starts_with(b"crun "),
            ..OciRuntime::default()
        }),
        Ok(output) => Err(format!("`--version` ended with {}", output.status)),
        Err(error) => Err(error.to_string()),
    }
}

/// One agent at a time may own the data directory; the lock ends with the process.
pub(super) fn lock(data_dir: &Path) -> Result<Flock<std::fs::File>, AgentError> {
    let path = data_dir.join("agent.lock");
    let file = std::fs::File::create(&path).map_err(|source| AgentError::Directory {
        path: path.clone(),
        source,
    })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| AgentError::Running {
        path: data_dir.to_owned(),
    })
}

async fn runc_version() -> Result<String, AgentError> {
    let output = tokio::process::Command::new("runc")
        .arg("--version")
        .output()
        .await
        .map_err(|error| AgentError::RuncMissing {
            detail: error.to_string(),
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = parse_runc(&text).ok_or_else(|| AgentError::RuncMissing {
        detail: "`runc --version` says nothing of a version".to_owned(),
    })?;
    if numbers(&version) < numbers(RUNC_MINIMUM) {
        return Err(AgentError::RuncTooOld {
            found: version,
            minimum: RUNC_MINIMUM,
        });
    }
    Ok(version)
}

/// `runc version 1.1.5+ds1` without what a distribution appended.
fn parse_runc(text: &str) -> Option<String> {
    let version = text.lines().next()?.strip_prefix("runc version ")?;
    let end = version
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(version.len());
    let version = version[..end].trim_end_matches('.');
    (!version.is_empty()).then(|| version.to_owned())
}

fn numbers(version: &str) -> Vec<u32> {
    version
        .split('.')
        .map(|part| part.parse().unwrap_or(0))
        .collect()
}

fn missing_capability(status: &str) -> Option<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())?;
    CAPABILITIES
        .iter()
        .find(|(bit, _)| effective & (1 << bit) == 0)
        .map(|(_, name)| *name)
}

fn has_filesystem(table: &str, name: &str) -> bool {
    table
        .lines()
        .any(|line| line.split_whitespace().next_back() == Some(name))
}

/// The root of the v2 hierarchy, which a hybrid host has beside the others.
pub(super) fn unified_cgroup() -> PathBuf {
    find_unified().unwrap_or_else(|| PathBuf::from("/sys/fs/cgroup"))
}

fn find_unified() -> Option<PathBuf> {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .find(|dir| Path::new(dir).join("cgroup.procs").exists() && is_cgroup2(dir))
        .map(PathBuf::from)
}

fn is_cgroup2(dir: &str) -> bool {
    nix::sys::statfs::statfs(dir)
        .is_ok_and(|stat| stat.filesystem_type() == nix::sys::statfs::CGROUP2_SUPER_MAGIC)
}

/// The node's resolver; behind systemd-resolved, the one that it asks.
pub(super) fn host_resolver() -> Resolver {
    let read = |path| Resolver::parse(&std::fs::read_to_string(path).unwrap_or_default());
    let resolver = read("/etc/resolv.conf");
    let only_stub = !resolver.nameservers.is_empty()
        && resolver
            .nameservers
            .iter()
            .all(|nameserver| nameserver.starts_with("127.0.0.53"));
    if only_stub {
        read("/run/systemd/resolve/resolv.conf")
    } else {
        resolver
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn versions_of_runc() {
        assert_eq!(
            parse_runc("runc version 1.1.5+ds1\ncommit: x\n").as_deref(),
            Some("1.1.5")
        );
        assert_eq!(parse_runc("nonsense"), None);
        assert!(numbers("1.0.9") < numbers(RUNC_MINIMUM));
        assert!(numbers("1.10.0") > numbers(RUNC_MINIMUM));
    }

    #[test]
    fn a_missing_capability_is_named() {
        assert_eq!(missing_capability("CapEff:\t000001ffffffffff\n"), None);
        assert_eq!(
            missing_capability("CapEff:\t00000000000000e1\n"),
            Some("CAP_SYS_ADMIN")
        );
        assert_eq!(
            missing_capability("CapEff:\t00000000002000e1\n"),
            Some("CAP_NET_ADMIN")
        );
    }

    #[test]
    fn file_systems() {
        let table = "nodev\tsysfs\nnodev\toverlay\n\text4\n";
        assert!(has_filesystem(table, "overlay") && has_filesystem(table, "ext4"));
        assert!(!has_filesystem(table, "bpf"));
    }
}
