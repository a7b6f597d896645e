//! From facts about the machine to the steps of set-up. Pure.

use std::fmt;

use super::facts::Facts;

/// What the machine is set up for; each includes the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// Build and run a cluster.
    Run,
    /// The tests' own programs as well.
    Tests,
}

impl Need {
    pub(crate) fn covers(self, other: Self) -> bool {
        other <= self
    }
}

/// A program that is used, and the Debian package that brings it.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
    pub(crate) why: &'static str,
    pub(crate) need: Need,
}

const fn program(
    name: &'static str,
    package: &'static str,
    why: &'static str,
    need: Need,
) -> Program {
    Program {
        name,
        package,
        why,
        need,
    }
}

pub(crate) const PROGRAMS: &[Program] = &[
    program("runc", "runc", "runs containers", Need::Run),
    program(
        "busybox",
        "busybox-static",
        "user land of the demo's and the tests' images",
        Need::Run,
    ),
    program(
        "ip",
        "iproute2",
        "network namespaces of the tests",
        Need::Tests,
    ),
    program(
        "iptables",
        "iptables",
        "the tests prove that no rule appears",
        Need::Tests,
    ),
    program(
        "nft",
        "nftables",
        "the tests prove that no rule appears",
        Need::Tests,
    ),
    program(
        "bpftool",
        "bpftool",
        "BPF statistics in benchmarks, leftovers in tests",
        Need::Tests,
    ),
    program(
        "dig",
        "dnsutils",
        "a real resolver client for the DNS tests",
        Need::Tests,
    ),
    program(
        "crun",
        "crun",
        "the other runtime that pods may ask for",
        Need::Tests,
    ),
    program(
        "docker-registry",
        "docker-registry",
        "a real registry on loopback",
        Need::Tests,
    ),
    program(
        "skopeo",
        "skopeo",
        "pushes test images to that registry",
        Need::Tests,
    ),
    program(
        "nsenter",
        "util-linux",
        "runs a process in a test's network namespace",
        Need::Tests,
    ),
];

/// A file of a package that brings no program of its own.
#[derive(Debug)]
pub(crate) struct Library {
    pub(crate) file: &'static str,
    pub(crate) package: &'static str,
}

/// What building and linking the C parts of our dependencies needs.
pub(crate) const LIBRARIES: &[Library] = &[
    Library {
        file: "/usr/bin/cc",
        package: "gcc",
    },
    Library {
        file: "/usr/bin/make",
        package: "make",
    },
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    AptUpdate,
    AptInstall(Vec<String>),
    LinkDebianToolchain,
    InstallBpfLinker { llvm: u32 },
    InstallCargoDeny,
    UnpackKubectl,
    UnpackEtcd,
}

/// Something that set-up cannot bring by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blocked {
    pub(crate) what: String,
    pub(crate) remedy: String,
}

#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) blocked: Vec<Blocked>,
    /// What is used of the things that are there already.
    pub(crate) notes: Vec<String>,
    /// The rustup toolchain that builds the programs, when there is one.
    pub(crate) ebpf_toolchain: Option<String>,
}

/// LLVM major version in the output of `rustc -vV`.
pub(crate) fn llvm_major(verbose_version: &str) -> Option<u32> {
    let line = verbose_version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.trim().parse().ok()
}

/// LLVM of Debian's `rustc-web`.
const DEBIAN_LLVM: u32 = 22;

fn llvm_packages(llvm: u32) -> [String; 4] {
    [
        format!("llvm-{llvm}-dev"),
        format!("libpolly-{llvm}-dev"),
        "libzstd-dev".to_owned(),
        "zlib1g-dev".to_owned(),
    ]
}

pub(crate) fn plan(facts: &Facts) -> Plan {
    let mut plan = Plan::default();
    let mut packages: Vec<String> = Vec::new();
    for program in PROGRAMS
        .iter()
        .filter(|program| facts.missing.contains(program.name))
    {
        packages.push(program.package.to_owned());
    }
    for library in LIBRARIES
        .iter()
        .filter(|library| facts.missing.contains(library.file))
    {
        packages.push(library.package.to_owned());
    }
    let mut later = Vec::new();
    let llvm = match &facts.ebpf_toolchain {
        Some(toolchain) => {
            plan.notes.push(format!(
                "eBPF programs are built with the rustup toolchain `{}` (LLVM {})",
                toolchain.name, toolchain.llvm
            ));
            plan.ebpf_toolchain = Some(toolchain.name.clone());
            toolchain.llvm
        }
        None => {
            if !facts.debian_rustc {
                packages.extend(["rustc-web", "cargo-web", "rust-web-src"].map(str::to_owned));
            }
            if !facts.debian_linked || !facts.debian_rustc {
                later.push(Step::LinkDebianToolchain);
            }
            DEBIAN_LLVM
        }
    };
    let debian = facts
        .ebpf_toolchain
        .as_ref()
        .is_none_or(|toolchain| toolchain.name == "debian");
    if facts.need.covers(Need::Tests) && debian && !facts.debian_clippy {
        packages.push("rust-web-clippy".to_owned());
    }
    if !facts.bpf_linker {
        packages.extend(llvm_packages(llvm));
        later.push(Step::InstallBpfLinker { llvm });
    }
    if facts.need.covers(Need::Tests) {
        if !facts.cargo_deny {
            later.push(Step::InstallCargoDeny);
        }
        if !facts.old_kubectl {
            later.push(Step::UnpackKubectl);
        }
        if !facts.etcd {
            later.push(Step::UnpackEtcd);
        }
    }
    if !facts.rustup {
        plan.blocked.push(Blocked {
            what: "rustup".to_owned(),
            remedy: "install it from https://rustup.rs with the stable toolchain".to_owned(),
        });
    }
    let unpacks = |step: &Step| matches!(step, Step::UnpackKubectl | Step::UnpackEtcd);
    let needs_apt = !packages.is_empty() || later.iter().any(unpacks);
    if needs_apt && !facts.apt {
        plan.blocked.extend(packages.iter().map(|package| Blocked {
            what: package.clone(),
            remedy: format!(
                "this is {}, not Debian: install what Debian calls `{package}` with its package manager{}",
                facts.distribution.trim(),
                match package.as_str() {
                    "rustc-web" | "cargo-web" | "rust-web-src" =>
                        ", or `rustup toolchain install nightly --component rust-src`",
                    _ => "",
                }
            ),
        }));
    } else if needs_apt && !facts.root {
        plan.blocked.push(Blocked {
            what: format!("root (to install: {})", packages.join(" ")),
            remedy: format!(
                "run as root: apt-get install --no-install-recommends {}",
                packages.join(" ")
            ),
        });
    } else if needs_apt {
        plan.steps.push(Step::AptUpdate);
        if !packages.is_empty() {
            plan.steps.push(Step::AptInstall(packages));
        }
    }
    plan.steps.extend(later);
    plan
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for note in &self.notes {
            writeln!(f, "    {note}")?;
        }
        for step in &self.steps {
            match step {
                Step::AptUpdate => writeln!(f, "    will refresh apt's package lists")?,
                Step::AptInstall(packages) => {
                    writeln!(f, "    will install with apt:")?;
                    for package in packages {
                        let why = PROGRAMS
                            .iter()
                            .find(|program| program.package == package)
                            .map_or("builds the eBPF programs", |program| program.why);
                        writeln!(f, "      {package:<18} {why}")?;
                    }
                }
                Step::LinkDebianToolchain => {
                    writeln!(
                        f,
                        "    will link Debian's rustc as the rustup toolchain `debian`"
                    )?;
                }
                Step::InstallBpfLinker { llvm } => {
                    writeln!(
                        f,
                        "    will install bpf-linker 0.13.0 (LLVM {llvm}) with cargo"
                    )?;
                }
                Step::InstallCargoDeny => {
                    writeln!(
                        f,
                        "    will install cargo-deny with cargo (licences and duplicates)"
                    )?;
                }
                Step::UnpackKubectl => {
                    writeln!(
                        f,
                        "    will unpack Debian's kubectl 1.20 below target/tools"
                    )?;
                }
                Step::UnpackEtcd => {
                    writeln!(f, "    will unpack Debian's etcd 3.4 below target/tools")?;
                }
            }
        }
        for blocked in &self.blocked {
            writeln!(
                f,
                "    missing: {}\n        {}",
                blocked.what, blocked.remedy
            )?;
        }
        if self.steps.is_empty() && self.blocked.is_empty() {
            writeln!(f, "    nothing to install")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::facts::EbpfToolchain;
    use super::*;

    fn bare() -> Facts {
        Facts {
            need: Need::Tests,
            root: true,
            distribution: "debian 12".to_owned(),
            apt: true,
            rustup: true,
            missing: PROGRAMS.iter().map(|program| program.name).collect(),
            ebpf_toolchain: None,
            debian_rustc: false,
            debian_linked: false,
            debian_clippy: false,
            bpf_linker: false,
            cargo_deny: false,
            old_kubectl: false,
            etcd: false,
            rustup_tried: Some(false),
        }
    }

    #[test]
    fn a_bare_debian_gets_everything() {
        let plan = plan(&bare());
        assert!(plan.blocked.is_empty());
        let Step::AptInstall(packages) = &plan.steps[1] else {
            panic!("{plan}")
        };
        for package in [
            "runc",
            "rustc-web",
            "rust-web-src",
            "llvm-22-dev",
            "docker-registry",
            "crun",
        ] {
            assert!(
                packages.iter().any(|name| name == package),
                "{package} in {packages:?}"
            );
        }
        assert_eq!(
            plan.steps[2..],
            [
                Step::LinkDebianToolchain,
                Step::InstallBpfLinker { llvm: 22 },
                Step::InstallCargoDeny,
                Step::UnpackKubectl,
                Step::UnpackEtcd
            ]
        );
    }

    #[test]
    fn nightly_with_its_source_needs_no_debian_rustc() {
        let toolchain = EbpfToolchain {
            name: "nightly".to_owned(),
            llvm: 21,
        };
        let plan = plan(&Facts {
            ebpf_toolchain: Some(toolchain),
            ..bare()
        });
        let Step::AptInstall(packages) = &plan.steps[1] else {
            panic!("{plan}")
        };
        assert!(!packages.iter().any(|name| name == "rustc-web"));
        assert!(plan.steps.contains(&Step::InstallBpfLinker { llvm: 21 }));
    }

    #[test]
    fn a_complete_machine_needs_nothing() {
        let facts = Facts {
            missing: Default::default(),
            ebpf_toolchain: Some(EbpfToolchain {
                name: "debian".to_owned(),
                llvm: 22,
            }),
            debian_rustc: true,
            debian_linked: true,
            debian_clippy: true,
            bpf_linker: true,
            cargo_deny: true,
            old_kubectl: true,
            etcd: true,
            ..bare()
        };
        let plan = plan(&facts);
        assert!(plan.steps.is_empty() && plan.blocked.is_empty());
    }

    #[test]
    fn without_apt_each_missing_thing_is_named_with_its_remedy() {
        let plan = plan(&Facts {
            apt: false,
            distribution: "fedora 44".to_owned(),
            ..bare()
        });
        let text = plan.to_string();
        assert!(text.contains("missing: runc"), "{text}");
        assert!(text.contains("this is fedora 44, not Debian"), "{text}");
        assert!(text.contains("rustup toolchain install nightly"), "{text}");
    }

    #[test]
    fn without_root_the_command_to_run_is_said() {
        let plan = plan(&Facts {
            root: false,
            ..bare()
        });
        let text = plan.to_string();
        assert!(text.contains("run as root: apt-get install"), "{text}");
    }

    #[test]
    fn the_llvm_version_is_read() {
        assert_eq!(
            llvm_major("rustc 1.96.0\nhost: x\nLLVM version: 22.1.3\n"),
            Some(22)
        );
        assert_eq!(llvm_major("rustc 1.96.0"), None);
    }
}
