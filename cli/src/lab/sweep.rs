//! Ends what belongs to a lab: what is in its cgroup, what is mounted below its directories, its namespaces.
//! Nothing is asked of the processes, so a lab in any state is ended the same way.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::mount::{MntFlags, umount2};

use super::place::Place;
use super::{cgroups, netns, record};

pub(super) fn down(place: &Place, keep_data: bool) -> anyhow::Result<()> {
    let known = place.data.exists() || place.run.exists() || cgroups::is_populated(&place.cgroup)?;
    if !known {
        eprintln!("there is no lab in {}", place.data.display());
        return Ok(());
    }
    let _lock = record::lock(place)?;
    everything(place)?;
    if keep_data {
        eprintln!(
            "the lab is down; the next `waggle lab up{}` goes on from {}",
            place.options(),
            place.data.display()
        );
        return Ok(());
    }
    remove_directory(&place.data)?;
    eprintln!("the lab is down; nothing of it is left");
    Ok(())
}

/// All of a lab but its data. Idempotent.
pub(super) fn everything(place: &Place) -> anyhow::Result<()> {
    cgroups::end(&place.cgroup)?;
    cgroups::remove_parent(&place.cgroup)?;
    unmount_below(&[&place.run, &place.data])?;
    remove_directory(&place.run)
}

/// What one member has, but for its name and cable in the fabric. Idempotent.
pub(super) fn member(place: &Place, name: &str) -> anyhow::Result<()> {
    power_off(place, name)?;
    remove_directory(&place.data_of(name))
}

/// What one member has but on its disk. Idempotent.
pub(super) fn power_off(place: &Place, name: &str) -> anyhow::Result<()> {
    cgroups::end(&place.cgroup_of(name))?;
    let run = place.run_of(name);
    unmount_below(&[&run, &place.data_of(name)])?;
    netns::remove(&place.netns(name))?;
    remove_directory(&run)
}

fn unmount_below(directories: &[&Path]) -> anyhow::Result<()> {
    let mounts =
        std::fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    // Mounts on top of others are listed after them.
    for target in mount_points(&mounts).iter().rev() {
        if directories.iter().any(|dir| target.starts_with(dir)) {
            match umount2(target, MntFlags::MNT_DETACH) {
                // Went with the one that it was below.
                Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
                Err(errno) => bail!("unmount {}: {errno}", target.display()),
            }
        }
    }
    Ok(())
}

/// The fifth field of each line, in which blanks and the like are `\` and three octal digits.
fn mount_points(mountinfo: &str) -> Vec<PathBuf> {
    let targets = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    targets
        .map(|target| {
            let mut parts = target.split('\\');
            let mut text = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                let code = part.get(..3).map(|digits| u8::from_str_radix(digits, 8));
                match code {
                    Some(Ok(code)) => {
                        text.push(char::from(code));
                        text.push_str(&part[3..]);
                    }
                    _ => {
                        text.push('\\');
                        text.push_str(part);
                    }
                }
            }
            PathBuf::from(text)
        })
        .collect()
}

/// Only after everything below is unmounted: it does not stop at mount points.
fn remove_directory(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_blanks_are_read() {
        let mounts =
            "31 23 0:28 / /run/a rw - tmpfs x rw\n32 31 0:29 / /run/a\\040b/c rw - bpf bpf rw\n";
        assert_eq!(
            mount_points(mounts),
            [Path::new("/run/a"), Path::new("/run/a b/c")]
        );
        assert_eq!(mount_points("1 2 3 / /x\\zz rw"), [Path::new("/x\\zz")]);
        assert!(mount_points("nonsense").is_empty());
    }
}
