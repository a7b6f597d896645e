//! Many seeds. Each runs in a process of its own, because libraries count runtimes and tasks of a process and
//! draw from that.
//!
//! A failure prints the command that does the same again. `WAGGLE_SIM_TRACE=1` shows what one seed does, with
//! what `RUST_LOG` asks for; `WAGGLE_SIM_SEEDS=5000` looks at more seeds than usual. None runs without a bound. The crate
//! `simulation` is these files once more, optimized, and looks at thousands.

use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::history::History;
use super::{entropy, invariants, scenario};
use crate::store::planted::{self, Bug};

const PACKAGE: &str = env!("CARGO_PKG_NAME");
const FEW: u64 = 24;
const THOUSANDS: u64 = 3_000;
/// Of a seed's own time. Faults and repairs take less than half of it.
const LONGEST: Duration = Duration::from_secs(180);
/// Of real time, for one seed: most take less than a second.
const PATIENCE: Duration = Duration::from_secs(40);
/// Of real time, for all that one test looks at: this, and so much for each seed.
const WHOLE: Duration = Duration::from_secs(120);
const EACH: Duration = Duration::from_millis(500);
const FIRST: &str = "WAGGLE_SIM_SEED";
const COUNT: &str = "WAGGLE_SIM_COUNT";
const PLANT: &str = "WAGGLE_SIM_BUG";
const MANY: &str = "WAGGLE_SIM_SEEDS";
const CHILD: &str = "store::tests::sim::seeds::simulated_child";

/// One life, in a thread of its own so that nothing of the last one is left.
fn simulate(seed: u64, bug: Option<Bug>) -> Result<History, String> {
    // Made in this thread: it uses randomness.
    let trace = std::env::var_os("WAGGLE_SIM_TRACE").map(|_| trace());
    let life = std::thread::spawn(move || {
        let _traced = trace.as_ref().map(tracing::dispatcher::set_default);
        entropy::seed(seed);
        planted::plant(bug);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let ends = tokio::time::timeout(LONGEST, scenario::run(seed)).await;
            ends.unwrap_or_else(|_| panic!("does not end: {LONGEST:?} of its own time are over"))
        })
    });
    let begun = Instant::now();
    while !life.is_finished() {
        if begun.elapsed() > PATIENCE {
            // Its thread goes on, and ends with the process.
            return Err(format!("does not end: it has run for {PATIENCE:?}"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let history = life.join().map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "a panic".to_owned())
    })?;
    invariants::check(&history).map(|()| history)
}

/// With what `RUST_LOG` names.
fn trace() -> tracing::Dispatch {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .finish();
    tracing::Dispatch::new(subscriber)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Not a test of its own: one seed, or some. Does nothing unless it is told a seed.
#[test]
fn simulated_child() {
    let Some(first) = number(FIRST) else {
        return;
    };
    let bug = match std::env::var(PLANT).as_deref() {
        Ok("StaleReads") => Some(Bug::StaleReads),
        Ok("WritesAgain") => Some(Bug::WritesAgain),
        Ok("LyingDisks") => Some(Bug::LyingDisks),
        Ok("LeadsAgain") => Some(Bug::LeadsAgain),
        Ok("CountsUnwritten") => Some(Bug::CountsUnwritten),
        _ => None,
    };
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
        "{line}\nagain: {FIRST}={seed} cargo test -p {PACKAGE} --lib -- --exact {CHILD} --nocapture"
    )
}

/// Runs one seed after the other, on all cores, until one fails; what it printed then.
fn first_failure(seeds: u64, bug: Option<Bug>) -> Option<String> {
    let next = AtomicU64::new(0);
    let failure = Mutex::new(None);
    let end = Instant::now() + WHOLE + EACH * seeds as u32;
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while failure.lock().unwrap().is_none() {
                    let first = next.fetch_add(1, Ordering::Relaxed);
                    if first >= seeds {
                        return;
                    }
                    if Instant::now() > end {
                        let late =
                            format!("seed {first} was not begun in time: all of it is too slow");
                        failure.lock().unwrap().get_or_insert(late);
                        return;
                    }
                    let (well, text) = child(first, 1, bug);
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
    let seeds = match PACKAGE {
        "simulation" => THOUSANDS,
        _ => FEW,
    };
    let seeds = number(MANY).unwrap_or(seeds);
    if let Some(text) = first_failure(seeds, None) {
        panic!("{}", replay(&text));
    }
}

#[test]
fn planted_bugs_are_found() {
    for bug in [
        Bug::StaleReads,
        Bug::WritesAgain,
        Bug::LyingDisks,
        Bug::LeadsAgain,
        Bug::CountsUnwritten,
    ] {
        let found = first_failure(96, Some(bug)).unwrap_or_default();
        assert!(found.contains(" broke "), "{bug:?} was not found: {found}");
    }
}

#[test]
fn the_same_seed_does_the_same_again() {
    let (well, once) = child(2, 1, None);
    assert!(well, "{}", replay(&once));
    let (_, again) = child(2, 1, None);
    assert_eq!(once, again);
}
