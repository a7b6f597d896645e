//! A network namespace as a node: loopback, and an uplink to an outside namespace.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::process::Outcome;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A node's namespace (192.0.2.1) and the outside world behind its uplink (192.0.2.2); both go when it
/// is dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Address of the node on its uplink.
    pub const NODE: &str = "192.0.2.1";
    /// Address of the outside world.
    pub const OUTSIDE: &str = "192.0.2.2";

    pub fn new() -> Self {
        let name = format!(
            "wgt-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let this = Self { name };
        let (node, outside) = (this.name(), this.outside());
        for namespace in [node, &outside] {
            ip(&["netns", "add", namespace]);
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
        }
        ip(&[
            "-n", node, "link", "add", "uplink", "type", "veth", "peer", "name", "world", "netns",
            &outside,
        ]);
        ip(&["-n", node, "addr", "add", "192.0.2.1/24", "dev", "uplink"]);
        ip(&["-n", node, "link", "set", "uplink", "up"]);
        ip(&["-n", node, "route", "add", "default", "via", Self::OUTSIDE]);
        ip(&[
            "-n",
            &outside,
            "addr",
            "add",
            "192.0.2.2/24",
            "dev",
            "world",
        ]);
        ip(&["-n", &outside, "link", "set", "world", "up"]);
        this
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn outside(&self) -> String {
        format!("{}-out", self.name)
    }

    /// A command that runs in the node's namespace (and nothing else of it: mounts stay the machine's).
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        inside(&self.name, program)
    }

    /// A command that runs in the outside world.
    pub fn outside_command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        inside(&self.outside(), program)
    }
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        for namespace in [self.outside(), self.name.clone()] {
            let _ = Command::new("ip")
                .args(["netns", "delete", &namespace])
                .status();
        }
    }
}

fn inside(namespace: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/run/netns/{namespace}"))
        .arg("--")
        .arg(program);
    command
}

#[track_caller]
fn ip(arguments: &[&str]) {
    Outcome::of(Command::new("ip").args(arguments)).ok();
}
