//! Virtual machines for what the machine at hand cannot do: Debian's kernels, taken with `apt-get download` and unpacked,
//! not installed, and an initramfs with busybox and what is to run. Emulated: a boot takes seconds, and timings mean
//! nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::run::{self, checked};

/// Where kernels and images are kept.
pub(crate) fn folder() -> anyhow::Result<PathBuf> {
    let work = run::workspace_root().join("target/kernels");
    std::fs::create_dir_all(&work)?;
    for program in ["qemu-system-x86_64", "busybox", "ldd", "dpkg"] {
        if run::find_program(program).is_none() {
            bail!(
                "{program} is not there: apt-get install qemu-system-x86 busybox-static libc-bin dpkg"
            );
        }
    }
    Ok(work)
}

/// The emulator, with nothing but a processor, memory and a serial console.
pub(crate) fn emulator(kernel: &Path, image: &Path, parameters: &str) -> Vec<String> {
    let mut arguments: Vec<String> =
        "qemu-system-x86_64 -accel tcg -cpu max -m 2048 -smp 1 -nographic -no-reboot \
         -nic none"
            .split_whitespace()
            .map(str::to_owned)
            .collect();
    arguments.push("-kernel".to_owned());
    arguments.push(kernel.display().to_string());
    arguments.push("-initrd".to_owned());
    arguments.push(image.display().to_string());
    arguments.push("-append".to_owned());
    arguments.push(format!("console=ttyS0 quiet panic=-1 {parameters}"));
    arguments
}

/// An initramfs with busybox, these programs (by the path that each gets) with the shared objects that they need, and
/// what is run at the start, in which all of `/proc`, `/sys`, `/dev` and `/tmp` are there.
pub(crate) fn initramfs(
    work: &Path,
    name: &str,
    programs: &[(&str, &Path)],
    script: &str,
) -> anyhow::Result<PathBuf> {
    let root = work.join(format!("{name}-root"));
    let _ = std::fs::remove_dir_all(&root);
    for folder in ["bin", "dev", "proc", "sys", "tmp"] {
        std::fs::create_dir_all(root.join(folder))?;
    }
    let busybox = run::find_program("busybox").context("busybox")?;
    std::fs::copy(busybox, root.join("bin/busybox"))?;
    for (path, program) in programs {
        let (copy, program) = (root.join(path), program.to_string_lossy());
        // Debug information would be most of the image.
        if run::output("strip", &["-o", &copy.to_string_lossy(), &program]).is_none() {
            std::fs::copy(&*program, &copy)?;
        }
        let objects = run::output("ldd", &[&program]).context("ldd")?;
        let objects = objects.split_whitespace();
        for object in objects.filter(|word| word.starts_with('/')) {
            let to = root.join(object.trim_start_matches('/'));
            std::fs::create_dir_all(to.parent().context("a folder")?)?;
            std::fs::copy(object, to)?;
        }
    }
    let init = root.join("init");
    std::fs::write(
        &init,
        format!(
            "#!/bin/busybox sh\n\
             export PATH=/bin RUST_BACKTRACE=0\n\
             /bin/busybox --install -s /bin\n\
             mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp\n\
             {script}\n\
             poweroff -f\n"
        ),
    )?;
    checked(Command::new("chmod").arg("755").arg(&init))?;
    let image = work.join(format!("{name}.initramfs"));
    let script = format!(
        "cd '{}' && find . | busybox cpio -o -H newc > '{}'",
        root.display(),
        image.display()
    );
    checked(Command::new("sh").args(["-c", &script]))?;
    Ok(image)
}

/// Version and image of a kernel package's newest kernel, taken from the registry once.
pub(crate) fn kernel(work: &Path, package: &str) -> anyhow::Result<(String, PathBuf)> {
    let mut name = package.to_owned();
    let mut seen = BTreeSet::new();
    // A package without a kernel depends on the one that has it.
    while seen.insert(name.clone()) {
        let depends = run::output("apt-cache", &["depends", "--important", &name])
            .with_context(|| format!("apt-cache knows no {name}"))?;
        let next = depends.lines().find_map(|line| {
            let other = line.trim().strip_prefix("Depends: ")?;
            other.starts_with("linux-image-").then(|| other.to_owned())
        });
        match next {
            Some(next) => name = next,
            None => break,
        }
    }
    let version = name
        .trim_start_matches("linux-image-")
        .split("-cloud")
        .next()
        .unwrap_or_default()
        .to_owned();
    let root = work.join(&name);
    if !root.join("boot").is_dir() {
        take(work, &name, &root)?;
    }
    let kernel = std::fs::read_dir(root.join("boot"))?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("vmlinuz"))
        .with_context(|| format!("no kernel in {name}"))?;
    Ok((version, kernel.path()))
}

fn take(work: &Path, name: &str, root: &Path) -> anyhow::Result<()> {
    run::step(&format!("taking {name}"));
    let folder = work.join("packages");
    std::fs::create_dir_all(&folder)?;
    checked(
        Command::new("apt-get")
            .args(["download", name])
            .current_dir(&folder),
    )?;
    let start = format!("{name}_");
    let archive = std::fs::read_dir(&folder)?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&start))
        .with_context(|| format!("no archive of {name}"))?;
    checked(Command::new("dpkg").arg("-x").arg(archive.path()).arg(root))?;
    // Modules are most of it, and none is loaded.
    let _ = std::fs::remove_dir_all(root.join("lib"));
    std::fs::remove_file(archive.path())?;
    Ok(())
}
