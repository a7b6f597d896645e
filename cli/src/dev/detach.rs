//! `--detach`: starts the cluster as a process of its own session, waits until it reports, and shows what
//! it reported.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::StartArguments;
use crate::progress::{FAILED, READY};

pub(super) fn start(arguments: &StartArguments) -> anyhow::Result<()> {
    std::fs::create_dir_all(&arguments.data_dir)
        .with_context(|| format!("create {}", arguments.data_dir.display()))?;
    let pipe = arguments
        .data_dir
        .join(format!("dev.{}.report", std::process::id()));
    nix::unistd::mkfifo(
        &pipe,
        nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR,
    )
    .with_context(|| format!("create {}", pipe.display()))?;
    let outcome = start_and_follow(arguments, &pipe);
    let _ = std::fs::remove_file(&pipe);
    outcome
}

fn start_and_follow(arguments: &StartArguments, pipe: &std::path::Path) -> anyhow::Result<()> {
    let log_path = arguments.data_dir.join("dev.log");
    let log = File::options().create(true).append(true).open(&log_path)?;
    // The same arguments again, but for --detach.
    let same = std::env::args_os()
        .skip(1)
        .filter(|argument| argument != "--detach");
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(same)
        .arg("--report-to")
        .arg(pipe)
        .stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(log);
    // SAFETY: setsid is async-signal-safe and touches nothing of the parent.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()
                .map(drop)
                .map_err(std::io::Error::from)
        });
    }
    let mut child = command.spawn().context("start the cluster's process")?;
    // Opening blocks until the other side opens too; the child's death must end the wait as well, so both
    // directions are opened here and the child's exit is watched by a thread that writes the end.
    let reader = File::options().read(true).write(true).open(pipe)?;
    let mut closer = reader.try_clone()?;
    let watcher = std::thread::spawn(move || {
        let status = child.wait();
        use std::io::Write as _;
        let _ = writeln!(closer, "{FAILED}the cluster's process ended: {status:?}");
    });
    for line in BufReader::new(reader).lines() {
        let line = line?;
        if line == READY {
            return Ok(());
        }
        if let Some(reason) = line.strip_prefix(FAILED) {
            let _ = watcher.is_finished();
            bail!("{reason}; see {}", log_path.display());
        }
        match line.strip_prefix("screen ") {
            Some(text) => println!("{text}"),
            None => eprintln!("{line}"),
        }
    }
    bail!(
        "the cluster's process closed its report; see {}",
        log_path.display()
    )
}
