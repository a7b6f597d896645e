//! Many seeds. Each batch runs in a process of its own, because a library counts the runtimes of a process and
//! draws its randomness from that: so the place of a seed in its batch is part of what it does.
//!
//! `WAGGLE_SIM_TRACE=1` shows what one seed does. A failure prints the command that does the same again. `WAGGLE_SIM_SEEDS=5000` looks at more seeds than usual.

use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::history::History;
use super::{entropy, invariants, scenario};
use crate::store::planted::{self, Bug};

const BATCH: u64 = 8;
const SEEDS: u64 = 240;
const FIRST: &str = "WAGGLE_SIM_SEED";
const COUNT: &str = "WAGGLE_SIM_COUNT";
const PLANT: &str = "WAGGLE_SIM_BUG";
const MANY: &str = "WAGGLE_SIM_SEEDS";
const CHILD: &str = "store::tests::sim::seeds::simulated_child";

/// One life, in a thread of its own so that nothing of the last one is left.
fn simulate(seed: u64, bug: Option<Bug>) -> Result<History, String> {
    let life = std::thread::spawn(move || {
        entropy::seed(seed);
        planted::plant(bug);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(scenario::run(seed))
    });
    let history = life.join().map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "a panic".to_owned())
    })?;
    invariants::check(&history).map(|()| history)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Not a test of its own: a batch of seeds, or one of them again. Does nothing unless it is told a seed.
#[test]
fn simulated_child() {
    let Some(first) = number(FIRST) else {
        return;
    };
    let bug = match std::env::var(PLANT).as_deref() {
        Ok("StaleReads") => Some(Bug::StaleReads),
        Ok("WritesAgain") => Some(Bug::WritesAgain),
        Ok("LyingDisks") => Some(Bug::LyingDisks),
        _ => None,
    };
    // The place in the batch.
    for _ in 0..first % BATCH {
        let burnt = tokio::runtime::Builder::new_current_thread().build();
        drop(burnt.unwrap());
    }
    for seed in first..first + number(COUNT).unwrap_or(1) {
        match simulate(seed, bug) {
            Ok(history) => println!(
                "seed {seed}: {} writes, {} reads, {} events, {:08x}",
                history.writes.len(),
                history.reads.len(),
                history.truth.len(),
                history.hash()
            ),
            Err(why) => {
                println!("seed {seed} broke {why}");
                panic!("seed {seed} broke {why}");
            }
        }
    }
}

fn child(first: u64, count: u64, bug: Option<Bug>) -> (bool, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", CHILD, "--nocapture"])
        .env(FIRST, first.to_string())
        .env(COUNT, count.to_string())
        .stderr(Stdio::null());
    if let Some(bug) = bug {
        command.env(PLANT, format!("{bug:?}"));
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter(|line| line.starts_with("seed "));
    let text: Vec<&str> = lines.collect();
    (output.status.success(), text.join("\n"))
}

fn replay(text: &str) -> String {
    let line = text.lines().last().unwrap_or("no seed");
    let seed = line.split_whitespace().nth(1).unwrap_or("?");
    format!(
        "{line}\nagain: {FIRST}={seed} cargo test -p controlplane --lib -- --exact {CHILD} --nocapture"
    )
}

/// Runs batches, two at a time, until one fails; what it printed then.
fn first_failure(seeds: u64, bug: Option<Bug>) -> Option<String> {
    let next = AtomicU64::new(0);
    let failure = Mutex::new(None);
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while failure.lock().unwrap().is_none() {
                    let first = next.fetch_add(BATCH, Ordering::Relaxed);
                    if first >= seeds {
                        return;
                    }
                    let (well, text) = child(first, BATCH, bug);
                    if !well {
                        failure.lock().unwrap().get_or_insert(text);
                    }
                }
            });
        }
    });
    failure.into_inner().unwrap()
}

#[test]
fn nothing_breaks_whatever_happens() {
    let seeds = number(MANY).unwrap_or(SEEDS);
    if let Some(text) = first_failure(seeds, None) {
        panic!("{}", replay(&text));
    }
}

#[test]
fn planted_bugs_are_found() {
    for bug in [Bug::StaleReads, Bug::WritesAgain, Bug::LyingDisks] {
        let found = first_failure(96, Some(bug));
        assert!(found.is_some(), "{bug:?} was not found");
    }
}

#[test]
fn the_same_seed_does_the_same_again() {
    let (well, batch) = child(0, 3, None);
    assert!(well, "{}", replay(&batch));
    let (_, alone) = child(2, 1, None);
    assert_eq!(batch.lines().last(), alone.lines().last());
}
