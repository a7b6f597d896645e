//! Which cgroup hierarchies this host has, and where: read from the mount table.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    /// Mount point of each v1 controller (`cpu`, `memory`, `name=systemd`…); some share one.
    pub(crate) v1: BTreeMap<String, PathBuf>,
    pub(crate) v2: Option<PathBuf>,
}

impl Hierarchies {
    pub(crate) fn detect() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read("/proc/self/mountinfo")?))
    }

    /// Lines that are not understood are passed over.
    pub(crate) fn parse(mountinfo: &[u8]) -> Self {
        let mut found = Self::default();
        for line in mountinfo.split(|byte| *byte == b'\n') {
            if let Ok(line) = std::str::from_utf8(line) {
                found.add(line);
            }
        }
        found
    }

    fn add(&mut self, line: &str) -> Option<()> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mount_point = PathBuf::from(unescape(mount.split(' ').nth(4)?));
        let mut file_system = file_system.split(' ');
        match file_system.next()? {
            "cgroup2" => {
                self.v2.get_or_insert(mount_point);
            }
            "cgroup" => {
                let options = file_system.nth(1)?;
                for controller in options.split(',').filter(|option| is_controller(option)) {
                    let entry = self.v1.entry(controller.to_owned());
                    entry.or_insert_with(|| mount_point.clone());
                }
            }
            _ => {}
        }
        Some(())
    }

    /// No v1 controllers: all resources are governed by the v2 tree.
    pub(crate) fn is_unified(&self) -> bool {
        !self.v1.keys().any(|name| !name.starts_with("name="))
    }

    /// A cgroup's directory in every hierarchy, the v2 tree first.
    pub(crate) fn directories(&self, cgroup: &str) -> Vec<PathBuf> {
        let mut directories: Vec<PathBuf> = Vec::new();
        for root in self.v2.iter().chain(self.v1.values()) {
            let directory = join(root, cgroup);
            if !directories.contains(&directory) {
                directories.push(directory);
            }
        }
        directories
    }

    /// The file with a cgroup's count of OOM kills.
    pub(crate) fn oom_events(&self, cgroup: &str) -> Option<PathBuf> {
        if let Some(root) = self.v1.get("memory") {
            return Some(join(root, cgroup).join("memory.oom_control"));
        }
        let root = self.v2.as_ref()?;
        Some(join(root, cgroup).join("memory.events"))
    }
}

pub(super) fn join(root: &Path, cgroup: &str) -> PathBuf {
    root.join(cgroup.trim_start_matches('/'))
}

/// Options of a v1 mount are its controllers, or its name, among some that every mount may have.
fn is_controller(option: &str) -> bool {
    let other = [
        "rw",
        "ro",
        "xattr",
        "noprefix",
        "clone_children",
        "cpuset_v2_mode",
        "seclabel",
    ];
    !option.is_empty()
        && !other.contains(&option)
        && (!option.contains('=') || option.starts_with("name="))
}

/// Mount points have blanks and the like as `\` and three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| *first == b'\\');
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
