//! A real process on a real disk, killed with SIGKILL at random moments, again and again.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

const CHILD: &str = "WAGGLE_STORE_CRASH_CHILD";
const ROUNDS: u32 = 12;
const CLIENTS: usize = 4;

/// Not a test of its own: what the killed process runs. Does nothing unless it is told a directory.
#[test]
fn crash_child() {
    let Some(dir) = std::env::var_os(CHILD) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = open(dir.as_ref()).await.unwrap();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| tokio::spawn(count(store.clone(), client)))
            .collect();
        for client in clients {
            client.await.unwrap();
        }
    });
}

/// Counts up under one key, and says each number once it is acknowledged.
async fn count(store: Store, client: usize) {
    let key = format!("/counter/{client}");
    loop {
        let now = store.get(&key, Freshness::Linearizable).await.unwrap();
        let next = now.as_ref().map_or(0, |kv| number(kv)) + 1;
        // Some records in several chunks.
        let padding = " ".repeat((next % 7 * 2_000) as usize);
        let txn = Txn {
            compares: vec![Compare {
                key: key.clone(),
                mod_revision: now.map_or(0, |kv| kv.mod_revision),
            }],
            ..put(&key, &format!("{next}{padding}"))
        };
        let revision = committed(store.txn(txn).await.unwrap());
        if next % 500 == 0 {
            store.compact(revision / 2).await.unwrap();
        }
        use std::io::Write;
        let mut out = std::io::stdout().lock();
        // One write, so that a line is never half said.
        out.write_all(format!("ack {client} {next} {revision}\n").as_bytes())
            .unwrap();
        out.flush().unwrap();
    }
}

fn number(kv: &KeyValue) -> u64 {
    let text = std::str::from_utf8(&kv.value).unwrap();
    text.trim_end().parse().unwrap()
}

/// Does not outlive the test, also when that fails.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        // It has ended already when all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn nothing_acknowledged_is_lost_to_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = [0u64; CLIENTS];
    let mut revision = 0;
    for round in 0..ROUNDS {
        let mut child = Child(
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "store::tests::crash::crash_child", "--nocapture"])
                .env(CHILD, dir.path())
                .stdout(Stdio::piped())
                .stderr(Stdio::inherit())
                .spawn()
                .unwrap(),
        );
        let out = BufReader::new(child.0.stdout.take().unwrap());
        // From the first acknowledgement on, so that each round does some work.
        let life = Duration::from_millis(u64::from(rand::random_range(5..250u32)));
        let mut started = None;
        for line in out.lines() {
            let line = line.unwrap();
            let Some(ack) = line.split_once("ack ").map(|(_, ack)| ack) else {
                continue;
            };
            let numbers: Vec<u64> = ack.split(' ').map(|n| n.parse().unwrap()).collect();
            let client = numbers[0] as usize;
            assert_eq!(numbers[1], acknowledged[client] + 1, "round {round}");
            acknowledged[client] = numbers[1];
            revision = revision.max(numbers[2]);
            // What it still manages to say after the signal counts as well.
            if started.get_or_insert_with(Instant::now).elapsed() >= life {
                child.0.kill().unwrap();
            }
        }
        let status = child.0.wait().unwrap();
        assert_eq!(
            status.signal(),
            Some(libc::SIGKILL),
            "round {round}: {status}"
        );
        verify(dir.path(), &mut acknowledged, &mut revision);
    }
    assert!(acknowledged.iter().all(|n| *n > 0), "{acknowledged:?}");
}

/// Opens what the process left, in this process.
fn verify(dir: &std::path::Path, acknowledged: &mut [u64; CLIENTS], revision: &mut Revision) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = open(dir).await.unwrap();
        assert!(store.revision() >= *revision);
        *revision = store.revision();
        for (client, acknowledged) in acknowledged.iter_mut().enumerate() {
            let key = format!("/counter/{client}");
            let found = store.get(&key, Freshness::Linearizable).await.unwrap();
            let found = found.map_or(0, |kv| number(&kv));
            // One write may have become durable without having been acknowledged.
            assert!(
                found == *acknowledged || found == *acknowledged + 1,
                "client {client}: {found} is there, {acknowledged} was acknowledged"
            );
            *acknowledged = found;
        }
        store.close().await.unwrap();
    });
}
