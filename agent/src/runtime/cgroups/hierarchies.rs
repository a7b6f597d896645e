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

    /// Whether a cgroup's directory is in a hierarchy of v1.
    pub(crate) fn is_v1(&self, directory: &Path) -> bool {
        self.v1.values().any(|root| directory.starts_with(root))
    }

    /// Whether containers can be kept from huge pages: by the hierarchy that governs their other resources.
    pub(crate) fn limits_huge_pages(&self) -> bool {
        const NAME: &str = "hugetlb";
        let unified = self.v2.as_ref().filter(|_| self.is_unified());
        let controllers = unified.and_then(|root| {
            let path = root.join("cgroup.controllers");
            std::fs::read_to_string(path).ok()
        });
        self.v1.contains_key(NAME)
            || controllers.is_some_and(|all| all.split_whitespace().any(|name| name == NAME))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const UNIFIED: &[u8] = b"\
22 27 0:21 / /proc rw,relatime - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw,nosuid,nodev,noexec shared:4 - cgroup2 cgroup2 rw,nsdelegate
";
    const HYBRID: &[u8] = b"\
31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 master:3 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd,release_agent=/x
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
50 31 0:39 / /mnt/with\\040blank rw - cgroup cgroup rw,memory
";

    #[test]
    fn unified_hosts_have_one_tree() {
        let found = Hierarchies::parse(UNIFIED);
        assert!(found.is_unified());
        assert_eq!(
            found.directories("/w/pod1"),
            [Path::new("/sys/fs/cgroup/w/pod1")]
        );
        let events = found.oom_events("/w/pod1").unwrap();
        assert_eq!(events, Path::new("/sys/fs/cgroup/w/pod1/memory.events"));
    }

    #[test]
    fn hybrid_hosts_have_many() {
        let found = Hierarchies::parse(HYBRID);
        assert!(!found.is_unified());
        let controllers: Vec<&str> = found.v1.keys().map(String::as_str).collect();
        assert_eq!(controllers, ["cpu", "cpuacct", "memory", "name=systemd"]);
        let directories = found.directories("/w");
        let expected = ["unified", "cpu,cpuacct", "memory", "systemd"]
            .map(|name| Path::new("/sys/fs/cgroup").join(name).join("w"));
        assert_eq!(directories, expected);
        let events = found.oom_events("w").unwrap();
        assert_eq!(
            events,
            Path::new("/sys/fs/cgroup/memory/w/memory.oom_control")
        );
    }

    #[test]
    fn blanks_in_paths_are_understood() {
        assert_eq!(unescape("a\\040b\\134c"), "a b\\c");
        assert_eq!(unescape("a\\04"), "a\\04");
        assert_eq!(unescape("a\\999"), "a\\999");
    }

    proptest! {
        #[test]
        fn anything_is_taken(table: Vec<u8>) {
            Hierarchies::parse(&table);
        }

        #[test]
        fn lines_that_look_right_are_taken(
            table in "([0-9 ]{0,9}( /[a-z\\\\0-9]{0,9}){0,3} - cgroup2? [a-z=, ]{0,20}\n){0,9}",
        ) {
            Hierarchies::parse(table.as_bytes());
        }
    }
}
