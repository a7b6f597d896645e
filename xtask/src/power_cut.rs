//! `cargo xtask power-cut`: a member of the control plane in a virtual machine takes writes; each acknowledgement leaves
//! the machine over its serial console; the machine is killed; what its disk would hold after loss of power is put
//! together; it boots from that disk and shows what it has. Every acknowledged write must be there.
//!
//! A killed emulator alone would be too kind: what the guest had written without a flush is in the host's memory and so
//! survives. Therefore all that the disk is asked to do is logged (QEMU's `blklogwrites`), and the disk of the next boot
//! is made of the log: all up to the last flush, and of the writes behind it some, as a disk with a cache may.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use crate::guest;
use crate::run::{self, cargo, checked};

#[derive(Debug, clap::Args)]
pub(crate) struct PowerCutArguments {
    /// How often the power is cut.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// What is drawn: when the power is cut, and which writes a disk's cache loses.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Debian package of the guest's kernel.
    #[arg(long, default_value = "linux-image-cloud-amd64")]
    kernel: String,
    /// Seconds that one boot may take until the member has shown what it holds.
    #[arg(long, default_value_t = 300)]
    limit: u64,
    /// Folder of `waggle` and `waggle-guest`, where they are built already.
    #[arg(long)]
    programs: Option<PathBuf>,
}

/// Acknowledgements before the power is cut: at least, and at most so many more.
const LEAST: u64 = 20;
const SPREAD: u64 = 150;
const DISK: u64 = 1 << 30;
const SECTOR: u64 = 512;

/// What the guest says, one thing a line.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// The member holds this name with this value.
    Has(String, u64),
    /// It has said all that it holds.
    Shown,
    /// It has acknowledged a write of this value to this name.
    Acknowledged(String, u64),
    Other,
}

fn hear(line: &str) -> Said {
    let pair = |rest: &str| -> Option<(String, u64)> {
        let (name, value) = rest.trim().split_once('=')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    // The firmware's last words may be on the same line.
    if line.trim().ends_with("waggle: shown") {
        return Said::Shown;
    }
    let has = line.split_once("waggle: has ").and_then(|it| pair(it.1));
    let acknowledged = line.split_once("waggle: ack ").and_then(|it| pair(it.1));
    match (has, acknowledged) {
        (Some((name, value)), _) => Said::Has(name, value),
        (_, Some((name, value))) => Said::Acknowledged(name, value),
        _ => Said::Other,
    }
}

/// xorshift: a seed gives the same run as far as that is in our hands.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

pub(crate) fn run(arguments: &PowerCutArguments) -> anyhow::Result<()> {
    let work = guest::folder()?;
    let programs = match &arguments.programs {
        Some(folder) => folder.clone(),
        None => {
            run::step("building");
            checked(cargo().args(["build", "--package", "cli"]))?;
            checked(cargo().args(["build", "--package", "tests", "--bin", "waggle-guest"]))?;
            run::workspace_root().join("target/debug")
        }
    };
    let script = "mkdir /data; mount -t ext4 /dev/nvme0n1 /data || poweroff -f\n\
         ip link set lo up\n\
         hostname guest\n\
         waggle --log=warn controller --data-dir=/data/member --listen=127.0.0.1:6443 \
         --peer-listen=127.0.0.1:6444 &\n\
         waggle-guest /data/member/admin.kubeconfig $(sed 's/.*waggle.round=//' /proc/cmdline)";
    let image = guest::initramfs(
        &work,
        "power-cut",
        &[
            ("bin/waggle", &programs.join("waggle")),
            ("bin/waggle-guest", &programs.join("waggle-guest")),
        ],
        script,
    )?;
    let (version, kernel) = guest::kernel(&work, &arguments.kernel)?;
    let machine = Machine {
        kernel,
        image,
        disk: work.join("power-cut.disk"),
        log: work.join("power-cut.log"),
        limit: Duration::from_secs(arguments.limit),
    };
    run::step(&format!(
        "a member on Linux {version}, on an ext4 of its own"
    ));
    File::create(&machine.disk)?.set_len(DISK)?;
    checked(Command::new("mkfs.ext4").arg("-q").arg(&machine.disk))?;

    let mut random = Random(arguments.seed.max(1));
    let mut acknowledged = BTreeMap::new();
    for round in 0..=arguments.rounds {
        let cut_after = match round < arguments.rounds {
            true => LEAST + random.below(SPREAD),
            // The last boot only shows what is there.
            false => 0,
        };
        let started = Instant::now();
        let base = work.join("power-cut.base");
        copy(&machine.disk, &base)?;
        let outcome = machine.run(round, cut_after)?;
        judge(&acknowledged, &outcome.has).with_context(|| format!("in round {round}"))?;
        acknowledged.extend(outcome.has);
        let fresh = outcome.acknowledged.len();
        for (name, value) in outcome.acknowledged {
            let at = acknowledged.entry(name).or_default();
            *at = value.max(*at);
        }
        copy(&base, &machine.disk)?;
        let kept = replay(&machine.log, &machine.disk, &mut random)?;
        eprintln!(
            "round {round}: {} writes are there, {fresh} more acknowledged, power cut after {:.0?}; the disk kept {} of {} \
             writes since its last flush",
            acknowledged.len(),
            started.elapsed(),
            kept.0,
            kept.1
        );
    }
    println!(
        "the power was cut {} times; {} acknowledged values are all there",
        arguments.rounds,
        acknowledged.len()
    );
    for file in [&machine.disk, &machine.log, &work.join("power-cut.base")] {
        std::fs::remove_file(file)?;
    }
    Ok(())
}

/// # Errors
/// What was acknowledged and is not there, or is older.
fn judge(acknowledged: &BTreeMap<String, u64>, has: &BTreeMap<String, u64>) -> anyhow::Result<()> {
    let lost: BTreeSet<String> = acknowledged
        .iter()
        .filter(|(name, value)| has.get(*name).is_none_or(|found| found < *value))
        .map(|(name, value)| format!("{name}={value} (found {:?})", has.get(name)))
        .collect();
    ensure!(
        lost.is_empty(),
        "{} acknowledged writes are lost: {lost:?}",
        lost.len()
    );
    Ok(())
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("cp");
    checked(command.arg("--sparse=always").arg(from).arg(to))
}

struct Machine {
    kernel: PathBuf,
    image: PathBuf,
    disk: PathBuf,
    log: PathBuf,
    limit: Duration,
}

#[derive(Default)]
struct Outcome {
    has: BTreeMap<String, u64>,
    acknowledged: Vec<(String, u64)>,
}

/// Ended with whatever uses it.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine {
    /// Boots, hears what the member holds and then what it acknowledges, and kills the machine.
    fn run(&self, round: u32, cut_after: u64) -> anyhow::Result<Outcome> {
        // Zeros mark the end of the log.
        let _ = std::fs::remove_file(&self.log);
        File::create(&self.log)?;
        let emulator = guest::emulator(&self.kernel, &self.image, &format!("waggle.round={round}"));
        let mut guest = Guest(
            Command::new(&emulator[0])
                .args(&emulator[1..])
                .args(["-blockdev", &node("disk", &self.disk)])
                .args(["-blockdev", &node("log", &self.log)])
                .args([
                    "-blockdev",
                    "driver=blklogwrites,node-name=logged,file=disk,log=log,log-sector-size=512",
                ])
                .args(["-device", "nvme,drive=logged,serial=waggle"])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .context("start qemu-system-x86_64")?,
        );
        let output = guest.0.stdout.take().context("its console")?;
        let (say, lines) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                if say
                    .send(String::from_utf8_lossy(&line).into_owned())
                    .is_err()
                {
                    return;
                }
            }
        });
        let outcome = self.listen(&lines, cut_after);
        // The power is cut.
        drop(guest);
        // What it had said before has been acknowledged too.
        let mut outcome = outcome?;
        for line in lines.iter() {
            if let Said::Acknowledged(name, value) = hear(&line) {
                outcome.acknowledged.push((name, value));
            }
        }
        let _ = reader.join();
        Ok(outcome)
    }

    fn listen(&self, lines: &Receiver<String>, cut_after: u64) -> anyhow::Result<Outcome> {
        let deadline = Instant::now() + self.limit;
        let mut outcome = Outcome::default();
        let mut tail = Vec::new();
        let mut shown = false;
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = lines.recv_timeout(rest) else {
                bail!("the guest came to nothing:\n{}", tail.join("\n"));
            };
            match hear(&line) {
                Said::Has(name, value) => drop(outcome.has.insert(name, value)),
                Said::Shown => shown = true,
                Said::Acknowledged(name, value) => outcome.acknowledged.push((name, value)),
                Said::Other => tail.push(line),
            }
            if shown && outcome.acknowledged.len() as u64 >= cut_after {
                return Ok(outcome);
            }
        }
    }
}

fn node(name: &str, path: &Path) -> String {
    format!(
        "driver=raw,node-name={name},file.driver=file,file.locking=off,file.filename={}",
        path.display()
    )
}

const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// One entry of the log; `data` is where its bytes are.
#[derive(Debug, Clone, Copy)]
struct Entry {
    sector: u64,
    sectors: u64,
    flags: u64,
    data: u64,
}

/// The log's format is that of Linux's dm-log-writes: a sector of head, then entries, each a sector of four little-endian
/// numbers and its data.
fn entries(log: &mut File) -> anyhow::Result<Vec<Entry>> {
    let length = log.metadata()?.len();
    let mut head = [0; 8];
    log.seek(SeekFrom::Start(0))?;
    log.read_exact(&mut head)?;
    ensure!(
        u64::from_le_bytes(head) == 0x006a_7366_7773_6872,
        "no log of writes"
    );
    let mut all = Vec::new();
    let mut at = SECTOR;
    while at + SECTOR <= length {
        let mut bytes = [0; 32];
        log.seek(SeekFrom::Start(at))?;
        log.read_exact(&mut bytes)?;
        let number = |index: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&bytes[index * 8..index * 8 + 8]);
            u64::from_le_bytes(eight)
        };
        let entry = Entry {
            sector: number(0),
            sectors: number(1),
            flags: number(2),
            data: at + SECTOR,
        };
        if entry.sectors == 0 && entry.flags == 0 {
            break;
        }
        let carried = match entry.flags & DISCARD {
            0 => entry.sectors * SECTOR,
            _ => 0,
        };
        // Begun, and not whole: it was never answered.
        if entry.data + carried > length {
            break;
        }
        at = entry.data + carried;
        all.push(entry);
    }
    Ok(all)
}

/// Makes `disk` what it is after the loss of power: how many of the writes behind the last flush were kept, and of how many.
fn replay(log: &Path, disk: &Path, random: &mut Random) -> anyhow::Result<(usize, usize)> {
    let mut log = File::open(log)?;
    let all = entries(&mut log)?;
    let flushed = all.iter().rposition(|entry| entry.flags & FLUSH != 0);
    let flushed = flushed.map_or(0, |at| at + 1);
    let mut disk = File::options().write(true).open(disk)?;
    let (mut kept, mut loose) = (0, 0);
    for (at, entry) in all.iter().enumerate() {
        if entry.sectors == 0 || entry.flags & DISCARD != 0 {
            continue;
        }
        if at >= flushed && entry.flags & FUA == 0 {
            loose += 1;
            if random.below(2) == 0 {
                continue;
            }
            kept += 1;
        }
        let mut data = vec![0; usize::try_from(entry.sectors * SECTOR)?];
        log.seek(SeekFrom::Start(entry.data))?;
        log.read_exact(&mut data)?;
        disk.seek(SeekFrom::Start(entry.sector * SECTOR))?;
        disk.write_all(&data)?;
    }
    disk.sync_all()?;
    Ok((kept, loose))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_console_is_heard_among_other_lines() {
        assert_eq!(hear("waggle: has a=3\r"), Said::Has("a".into(), 3));
        assert_eq!(
            hear("[  1.2] x waggle: ack b=4\r"),
            Said::Acknowledged("b".into(), 4)
        );
        assert_eq!(hear("\u{1b}[2Jwaggle: shown\r"), Said::Shown);
        assert_eq!(hear("waggle: ack b="), Said::Other);
    }

    #[test]
    fn a_lost_write_is_found() {
        let acknowledged = BTreeMap::from([("a".to_owned(), 3), ("b".to_owned(), 1)]);
        let mut has = acknowledged.clone();
        judge(&acknowledged, &has).unwrap();
        has.insert("a".to_owned(), 2);
        has.remove("b");
        let why = judge(&acknowledged, &has).unwrap_err().to_string();
        assert!(why.contains("2 acknowledged writes are lost"), "{why}");
    }

    #[test]
    fn what_was_flushed_is_on_the_disk_and_the_rest_may_be() {
        let folder = std::env::temp_dir().join(format!("wgp-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (log, disk) = (folder.join("log"), folder.join("disk"));
        let mut bytes = vec![0; 512];
        bytes[..8].copy_from_slice(&0x006a_7366_7773_6872_u64.to_le_bytes());
        let mut entry = |sector: u64, sectors: u64, flags: u64, fill: u8| {
            let mut head = vec![0; 512];
            for (index, number) in [sector, sectors, flags, 0].into_iter().enumerate() {
                head[index * 8..index * 8 + 8].copy_from_slice(&number.to_le_bytes());
            }
            bytes.extend(head);
            bytes.extend(vec![fill; usize::try_from(sectors * 512).unwrap()]);
        };
        entry(0, 1, 0, 1);
        entry(0, 0, FLUSH, 0);
        entry(2, 1, FUA, 2);
        for sector in 4..20 {
            entry(sector, 1, 0, 3);
        }
        std::fs::write(&log, bytes).unwrap();
        std::fs::write(&disk, vec![0; 512 * 20]).unwrap();
        let (kept, loose) = replay(&log, &disk, &mut Random(7)).unwrap();
        let found = std::fs::read(&disk).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!((found[0], found[1024]), (1, 2));
        assert_eq!(loose, 16);
        assert_eq!(
            (4..20).filter(|sector| found[sector * 512] == 3).count(),
            kept
        );
        assert!(kept > 0 && kept < 16, "{kept}");
    }
}
