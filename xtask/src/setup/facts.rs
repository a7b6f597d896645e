//! What the machine has: read once, changed never.

use std::collections::BTreeSet;
use std::path::Path;

use super::plan::{self, Need};
use crate::run::{find_program, output};

/// A rustup toolchain that can compile for eBPF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EbpfToolchain {
    pub(crate) name: String,
    /// LLVM major version of its rustc: bpf-linker must be built with the same.
    pub(crate) llvm: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) need: Need,
    pub(crate) root: bool,
    /// `ID` and `VERSION_ID` of os-release, and whether apt-get is there.
    pub(crate) distribution: String,
    pub(crate) apt: bool,
    pub(crate) rustup: bool,
    /// Programs of [`plan::PROGRAMS`] and libraries of [`plan::LIBRARIES`] that are missing.
    pub(crate) missing: BTreeSet<&'static str>,
    pub(crate) ebpf_toolchain: Option<EbpfToolchain>,
    /// Debian's rustc with its library source is installed, linked or not.
    pub(crate) debian_rustc: bool,
    pub(crate) debian_linked: bool,
    pub(crate) debian_clippy: bool,
    /// LLVM major version that the installed bpf-linker was built with; `None` when there is none.
    pub(crate) bpf_linker: bool,
    pub(crate) cargo_deny: bool,
    pub(crate) old_kubectl: bool,
    pub(crate) etcd: bool,
    /// Whether rustup was asked for nightly in this run, and what came of it.
    pub(crate) rustup_tried: Option<bool>,
}

pub(crate) fn read(need: Need) -> Facts {
    let os_release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |name: &str| {
        os_release
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim_matches('"').to_owned())
            .unwrap_or_default()
    };
    let mut missing: BTreeSet<&'static str> = plan::PROGRAMS
        .iter()
        .filter(|program| need.covers(program.need) && find_program(program.name).is_none())
        .map(|program| program.name)
        .collect();
    missing.extend(
        plan::LIBRARIES
            .iter()
            .filter(|library| !Path::new(library.file).exists())
            .map(|library| library.file),
    );
    Facts {
        need,
        // SAFETY: geteuid has no precondition and cannot fail.
        root: unsafe { libc::geteuid() } == 0,
        distribution: format!("{} {}", field("ID"), field("VERSION_ID")),
        apt: find_program("apt-get").is_some(),
        rustup: find_program("rustup").is_some(),
        missing,
        ebpf_toolchain: ["debian", "nightly"].into_iter().find_map(toolchain),
        debian_rustc: Path::new("/usr/lib/rustlib/src/rust/library/core").exists()
            && Path::new("/usr/bin/rustc").exists(),
        debian_clippy: Path::new("/usr/bin/clippy-driver").exists(),
        debian_linked: output("rustup", &["run", "debian", "rustc", "--version"]).is_some(),
        bpf_linker: find_program("bpf-linker")
            .is_some_and(|file| output(file, &["--version"]).is_some()),
        cargo_deny: output("cargo-deny", &["--version"]).is_some(),
        old_kubectl: super::old_kubectl().exists(),
        etcd: super::etcd().exists(),
        rustup_tried: None,
    }
}

/// The toolchain if it is there with its library source.
fn toolchain(name: &str) -> Option<EbpfToolchain> {
    let sysroot = output("rustup", &["run", name, "rustc", "--print", "sysroot"])?;
    if !Path::new(sysroot.trim())
        .join("lib/rustlib/src/rust/library/core")
        .exists()
    {
        return None;
    }
    let version = output("rustup", &["run", name, "rustc", "-vV"])?;
    let llvm = plan::llvm_major(&version)?;
    linkable(llvm).then(|| EbpfToolchain {
        name: name.to_owned(),
        llvm,
    })
}

/// bpf-linker is there, or can be built with this LLVM: a nightly may be ahead of what a distribution has.
fn linkable(llvm: u32) -> bool {
    find_program("bpf-linker").is_some()
        || Path::new(&format!("/usr/lib/llvm-{llvm}/bin/llvm-config")).exists()
        || find_program("apt-cache").is_none()
        || output("apt-cache", &["show", &format!("llvm-{llvm}-dev")])
            .is_some_and(|shown| !shown.trim().is_empty())
}
