//! `cargo xtask kernels`: loads every eBPF program on other kernels, in a virtual machine, and on this one; prints the
//! number of instructions that each verifier looked at, and writes it to `agent-ebpf/verified.md`.
//!
//! The machine (`guest`) runs one test of the agent and nothing else. Not part of `cargo xtask
//! test`: it needs QEMU and some hundred megabytes of packages.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::{guest, run};

#[derive(Debug, Args)]
pub(crate) struct KernelsArguments {
    /// Debian packages of kernels; those that depend on the current one of a line are followed.
    #[arg(default_values = ["linux-image-cloud-amd64", "linux-image-6.12-cloud-amd64"])]
    packages: Vec<String>,
    /// The agent's unit tests, where they are built already.
    #[arg(long)]
    tests: Option<PathBuf>,
    /// Seconds that one kernel may take.
    #[arg(long, default_value_t = 600)]
    limit: u32,
}

const TEST: &str = "dataplane::tests::lifecycle::every_program_is_far_from_the_verifiers_limit";
const TABLE: &str = "agent-ebpf/verified.md";
/// What the init script says before and after.
const BEGIN: &str = "waggle: begin";
const END: &str = "waggle: end";

/// Instructions by program.
type Counts = BTreeMap<String, u64>;

pub(crate) fn run(arguments: &KernelsArguments) -> anyhow::Result<()> {
    let work = guest::folder()?;
    let tests = match &arguments.tests {
        Some(tests) => tests.clone(),
        None => build()?,
    };
    run::step("this kernel");
    let output = Command::new(&tests)
        .args(["--exact", TEST, "--nocapture"])
        .output()?;
    let text = [output.stdout, output.stderr].concat();
    let here = format!("{} (here)", release()?);
    let mut table = vec![(here, read(&String::from_utf8_lossy(&text))?)];
    let script = format!("echo '{BEGIN}'\n/tests --exact {TEST} --nocapture 2>&1\necho '{END}'");
    let image = guest::initramfs(&work, "kernels", &[("tests", &tests)], &script)?;
    for package in &arguments.packages {
        let (version, kernel) = guest::kernel(&work, package)?;
        run::step(&format!("Linux {version}"));
        let text = boot(&kernel, &image, arguments.limit)?;
        let counts = read(&text).with_context(|| format!("on Linux {version}"))?;
        table.push((version, counts));
    }
    let text = render(&table);
    println!("{text}");
    std::fs::write(run::workspace_root().join(TABLE), text)?;
    Ok(())
}

fn release() -> anyhow::Result<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(release
        .split('-')
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned())
}

/// The agent's unit tests, as one executable.
fn build() -> anyhow::Result<PathBuf> {
    run::step("building the agent's tests");
    let output = run::cargo()
        .args(["test", "--package", "agent", "--lib", "--no-run"])
        .arg("--message-format=json")
        .stderr(std::process::Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("the agent's tests do not build");
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "agent")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo names no executable")
}

/// The line that the test prints, whether it is content with the numbers or not.
fn read(text: &str) -> anyhow::Result<Counts> {
    let line = text.lines().find_map(|line| {
        // Behind the test's name where the machine has one CPU only.
        let (_, list) = line.split_once("[(\"")?;
        list.trim_end().strip_suffix(")]")
    });
    let Some(list) = line else {
        let tail: Vec<&str> = text.lines().rev().take(30).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        bail!("the programs do not load:\n{}", tail.join("\n"));
    };
    list.split("), (\"")
        .map(|entry| {
            let (name, count) = entry.split_once("\", ").context("a name and a number")?;
            Ok((name.to_owned(), count.parse()?))
        })
        .collect()
}

/// What the test printed in the virtual machine.
fn boot(kernel: &Path, image: &Path, limit: u32) -> anyhow::Result<String> {
    let output = Command::new("timeout")
        .arg(limit.to_string())
        .args(guest::emulator(kernel, image, ""))
        .stdin(std::process::Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let Some((_, text)) = text.split_once(BEGIN) else {
        bail!("it does not boot:\n{text}");
    };
    match text.split_once(END) {
        Some((text, _)) => Ok(text.to_owned()),
        None => bail!("it did not come to an end in {limit} s:\n{text}"),
    }
}

/// One row for each program, one column for each kernel.
fn render(table: &[(String, Counts)]) -> String {
    let mut text = "# Verified instructions\n\n\
        What each kernel's verifier looked at before it took a program; its limit is a million. Written by `cargo xtask kernels`.\n\n\
        | program |"
        .to_owned();
    let programs: BTreeSet<&String> = table.iter().flat_map(|(_, counts)| counts.keys()).collect();
    for (version, _) in table {
        let _ = write!(text, " Linux {version} |");
    }
    text.push_str("\n|---|");
    text.push_str(&"---:|".repeat(table.len()));
    text.push('\n');
    for program in programs {
        let _ = write!(text, "| `{program}` |");
        for (_, counts) in table {
            match counts.get(program) {
                Some(count) => drop(write!(text, " {count} |")),
                None => text.push_str(" - |"),
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn counts_are_found_among_other_lines() {
        let text = "\nrunning 1 test\ntest x ... [(\"connect4\", 469), (\"pod_ingress\", 25212)]\r\ntest x ... ok\n";
        let counts = read(text).unwrap();
        assert_eq!((counts["connect4"], counts["pod_ingress"]), (469, 25_212));
        assert!(read("load eBPF program pod_ingress: refused").is_err());
        let table = render(&[("6.1.0".to_owned(), counts)]);
        assert!(
            table.ends_with("| `connect4` | 469 |\n| `pod_ingress` | 25212 |\n"),
            "{table}"
        );
    }
}
