//! What one seed does: a cluster, clients that use it, and faults, until everything is repaired.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep};

use super::cluster::{Cluster, Running};
use super::history::{Event, History, Led, Outcome, Read, Recorder, Watched, Write};
use super::network::Weather;
use crate::store::codec;
use crate::store::compaction::Retention;
use crate::store::group::change::Change;
use crate::store::member::Options;
use crate::store::tests::all;
use crate::store::{Compare, Op, Store, StoreError, Txn, TxnOutcome};

const CLIENTS: usize = 4;
const KEYS: u64 = 6;
/// How long faults go on, in simulated time.
const FAULTS: Duration = Duration::from_secs(9);
/// How long a watcher waits for a member that is behind.
const CATCH_UP: Duration = Duration::from_secs(2);
const REPAIR: Duration = Duration::from_secs(25);
/// How long those stay away who alone have what a leader told them.
const STAY_AWAY: Duration = Duration::from_secs(3);

/// The members that clients may ask, as they are now.
type Door = Arc<Mutex<BTreeMap<u64, Running>>>;

fn options(rng: &mut StdRng) -> Options {
    Options {
        // Nothing is given up by itself: in the end all of it is looked at.
        retention: Retention {
            min_revisions: 1 << 40,
            max_revisions: 1 << 40,
            max_bytes: 1 << 40,
            ..Retention::default()
        },
        // Some have to send snapshots, some never.
        snapshot_every: *[24, 60, 5_000].choose(rng).unwrap(),
        ..Options::default()
    }
}

/// The whole life of one cluster. The same for the same seed.
pub(super) async fn run(seed: u64) -> History {
    let mut rng = StdRng::seed_from_u64(seed);
    let size = *[3, 3, 3, 5].choose(&mut rng).unwrap();
    let options = options(&mut rng);
    let mut cluster = Cluster::of(size, seed, options).await;
    let start = Instant::now();
    let recorder = Recorder::default();
    let door = Door::default();
    open_door(&cluster, &door);
    let stop = tokio_util::sync::CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let client = Client {
            number,
            rng: StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(number as u64)),
            door: Arc::clone(&door),
            recorder: Arc::clone(&recorder),
            start,
            written: 0,
        };
        let stop = stop.clone();
        tasks.spawn(async move { client.run(stop).await });
    }
    for number in 0..2 {
        let watcher = watcher(
            StdRng::seed_from_u64(seed.wrapping_add(1_000 + number)),
            Arc::clone(&door),
            Arc::clone(&recorder),
            stop.clone(),
        );
        tasks.spawn(watcher);
    }
    tasks.spawn(note_leaders(
        Arc::clone(&door),
        Arc::clone(&recorder),
        stop.clone(),
    ));
    faults(&mut cluster, &mut rng, &door, size).await;
    repair(&mut cluster, &door).await;
    // A while without faults.
    sleep(Duration::from_millis(1_500)).await;
    let recovered = tokio::time::timeout(REPAIR, takes_writes(&door))
        .await
        .is_ok();
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    conclude(&cluster, &recorder).await;
    trace(&cluster, "end");
    let mut history = std::mem::take(&mut *recorder.lock().unwrap());
    history.recovered = recovered;
    history
}

fn open_door(cluster: &Cluster, door: &Door) {
    let running = cluster.ids().into_iter();
    let running = running.map(|id| (id, cluster.get(id).unwrap().clone()));
    *door.lock().unwrap() = running.collect();
}

async fn takes_writes(door: &Door) {
    for turn in 0.. {
        let members: Vec<Store> = {
            let door = door.lock().unwrap();
            door.values().map(|running| running.store.clone()).collect()
        };
        let mut all_take = !members.is_empty();
        for (at, store) in members.iter().enumerate() {
            let txn = put_unique("k/last", &format!("last {turn} {at}"));
            all_take &= store.txn(txn).await.is_ok();
        }
        if all_take {
            return;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

fn put_unique(key: &str, value: &str) -> Txn {
    Txn {
        compares: Vec::new(),
        ops: vec![Op::Put {
            key: key.to_owned(),
            value: Bytes::copy_from_slice(value.as_bytes()),
        }],
    }
}

/// A member that is coming up.
type Coming = tokio::task::JoinHandle<Result<Running, StoreError>>;

async fn faults(cluster: &mut Cluster, rng: &mut StdRng, door: &Door, size: u64) {
    let end = Instant::now() + FAULTS;
    let mut coming: BTreeMap<u64, Coming> = BTreeMap::new();
    let mut down: BTreeSet<u64> = BTreeSet::new();
    // Those of them that stay away until then.
    let mut late: BTreeMap<u64, Instant> = BTreeMap::new();
    let mut next_id = size + 1;
    while Instant::now() < end {
        sleep(Duration::from_millis(rng.random_range(50..900))).await;
        arrivals(cluster, &mut coming, door).await;
        let members: Vec<u64> = (1..next_id).collect();
        let up = cluster.ids();
        let dice = rng.random_range(0..13);
        if std::env::var_os("WAGGLE_SIM_TRACE").is_some() {
            let now = FAULTS - end.saturating_duration_since(Instant::now());
            println!("{now:?}: {dice}, up {up:?}, {}", cluster.net.take_asked());
        }
        match dice {
            0 | 1 => cluster.net.heal(),
            2 => {
                let some = subset(rng, &members);
                cluster.net.isolate(&some, &members);
            }
            3 => {
                if let Some(leader) = cluster.leader() {
                    cluster.net.isolate(&[leader], &members);
                }
            }
            4 => {
                // One way only.
                let from = *members.choose(rng).unwrap();
                for to in members.iter().filter(|to| **to != from) {
                    cluster.net.cut(from, *to);
                }
            }
            5 => {
                // Two halves that see each other through one member.
                let bridge = *members.choose(rng).unwrap();
                let others: Vec<u64> = members.iter().copied().filter(|id| *id != bridge).collect();
                let some = subset(rng, &others);
                cluster.net.isolate(&some, &others);
            }
            6..=8 => {
                // Several at once, sometimes all.
                let most = if rng.random_ratio(1, 4) { up.len() } else { 1 };
                for id in up.iter().take(most) {
                    let id = if most == 1 {
                        *up.choose(rng).unwrap()
                    } else {
                        *id
                    };
                    let unsynced = cluster.disk(id).unsynced();
                    cluster.crash(id, rng.random_range(0..=unsynced));
                    door.lock().unwrap().remove(&id);
                    down.insert(id);
                }
            }
            9 => cluster.net.set_weather(Weather {
                delay: (1, *[2, 20, 120].choose(rng).unwrap()),
                lost: *[0, 5, 80].choose(rng).unwrap(),
            }),
            10 => {
                let id = *members.choose(rng).unwrap();
                let most = *[2, 30, 250].choose(rng).unwrap();
                cluster.slow.lock().unwrap().insert(id, most);
            }
            11 if next_id == size + 1 && !up.is_empty() => {
                // One more joins; where the cluster cannot take it now, it stays away.
                let add = cluster.add_quietly(next_id);
                if let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(4), add).await {
                    coming.insert(next_id, tokio::spawn(cluster.begin(next_id)));
                    next_id += 1;
                }
            }
            12 => {
                if let Some((leader, told)) = lose_the_told(cluster, rng, &members, door).await {
                    coming.insert(leader, tokio::spawn(cluster.begin(leader)));
                    for id in told {
                        late.insert(id, Instant::now() + STAY_AWAY);
                        down.insert(id);
                    }
                }
            }
            _ => {}
        }
        // Those that are down come back by and by.
        late.retain(|_, until| *until > Instant::now());
        for id in down.clone() {
            if !late.contains_key(&id) && rng.random_ratio(1, 3) {
                down.remove(&id);
                coming.insert(id, tokio::spawn(cluster.begin(id)));
            }
        }
    }
    for id in down {
        coming.insert(id, tokio::spawn(cluster.begin(id)));
    }
    cluster.net.heal();
    cluster.net.set_weather(Weather::default());
    cluster.slow.lock().unwrap().clear();
    for (id, coming) in coming {
        let up = tokio::time::timeout(REPAIR, coming).await;
        trace(cluster, "repair");
        let running = up.expect("it comes up").unwrap();
        match running {
            Ok(running) => cluster.running(id, running),
            Err(error) => panic!("member {id} does not start: {error}"),
        }
    }
    open_door(cluster, door);
}

/// A leader with a slow disk hears from as many others as a majority needs, until it and those lose power at once. It is back
/// before them: what it had acknowledged must be on its own disk. Who it is, and who those are.
async fn lose_the_told(
    cluster: &mut Cluster,
    rng: &mut StdRng,
    members: &[u64],
    door: &Door,
) -> Option<(u64, Vec<u64>)> {
    let leader = cluster.leader()?;
    let mut told = cluster.ids();
    told.retain(|id| *id != leader);
    told.shuffle(rng);
    told.truncate(members.len() / 2);
    cluster.net.heal();
    for id in members.iter().filter(|id| !told.contains(id)) {
        cluster.net.cut(leader, *id);
    }
    cluster.slow.lock().unwrap().insert(leader, 250);
    sleep(Duration::from_millis(rng.random_range(50..400))).await;
    cluster.net.heal();
    for id in told.iter().copied().chain([leader]) {
        let unsynced = cluster.disk(id).unsynced();
        cluster.crash(id, rng.random_range(0..=unsynced));
        door.lock().unwrap().remove(&id);
    }
    Some((leader, told))
}

fn trace(cluster: &Cluster, at: &str) {
    if std::env::var_os("WAGGLE_SIM_TRACE").is_some() {
        println!(
            "{at}: {}{}",
            cluster.net.take_asked(),
            cluster.net.describe()
        );
    }
}

async fn arrivals(cluster: &mut Cluster, coming: &mut BTreeMap<u64, Coming>, door: &Door) {
    let ready: Vec<u64> = coming
        .iter()
        .filter(|(_, coming)| coming.is_finished())
        .map(|(id, _)| *id)
        .collect();
    for id in ready {
        let running = coming.remove(&id).unwrap().await.unwrap();
        match running {
            Ok(running) => cluster.running(id, running),
            Err(error) => panic!("member {id} does not start: {error}"),
        }
        open_door(cluster, door);
    }
}

fn subset(rng: &mut StdRng, of: &[u64]) -> Vec<u64> {
    of.iter()
        .copied()
        .filter(|_| rng.random_bool(0.5))
        .collect()
}

async fn repair(cluster: &mut Cluster, door: &Door) {
    cluster.net.heal();
    open_door(cluster, door);
}

impl Cluster {
    /// Makes it known, through whichever member answers.
    async fn add_quietly(&mut self, id: u64) -> Result<(), StoreError> {
        let any = self.any();
        let change = Change::Put(id, super::cluster::node(id));
        let since = any.change(&change).await?;
        self.came_with(id, since);
        Ok(())
    }
}

/// What is known in the end: all changes by one member's history, what each member's state adds up to.
async fn conclude(cluster: &Cluster, recorder: &Recorder) {
    let target = cluster.ids().into_iter();
    let target = target
        .map(|id| cluster.store(id).revision())
        .max()
        .unwrap_or(0);
    for id in cluster.ids() {
        let store = cluster.store(id);
        let reach = async {
            while store.revision() < target {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(REPAIR, reach).await;
        let summary = store.member.state().summary();
        let mut versions = crc32fast::Hasher::new();
        for (key, version) in store.member.state().read().mvcc.versions() {
            versions.update(key.as_bytes());
            versions.update(&codec::encode_version(version));
        }
        let end = format!("{:?} {:x}", summary.summary, versions.finalize());
        recorder.lock().unwrap().ends.insert(id, end);
    }
    let Some(first) = cluster.ids().first().copied() else {
        return;
    };
    let state = cluster.store(first).member.state().read();
    let changes = state.mvcc.changes_after(0).unwrap();
    let events = changes.flat_map(|change| change.events.iter().map(Event::of));
    recorder.lock().unwrap().truth = events.collect();
}

struct Client {
    number: usize,
    rng: StdRng,
    door: Door,
    recorder: Recorder,
    start: Instant,
    written: u64,
}

impl Client {
    async fn run(mut self, stop: tokio_util::sync::CancellationToken) {
        let mut known: BTreeMap<String, u64> = BTreeMap::new();
        while !stop.is_cancelled() {
            sleep(Duration::from_millis(self.rng.random_range(1..60))).await;
            let chosen = {
                let door = self.door.lock().unwrap();
                let members: Vec<u64> = door.keys().copied().collect();
                members
                    .choose(&mut self.rng)
                    .map(|id| (*id, door[id].clone()))
            };
            let Some((member, running)) = chosen else {
                continue;
            };
            if self.rng.random_bool(0.5) {
                if let Some(contents) = self.read(member, &running).await {
                    known = contents;
                }
            } else {
                let txn = self.txn(&known);
                self.write(member, &running, txn).await;
            }
        }
    }

    fn is_the_same(&self, member: u64, running: &Running) -> bool {
        let door = self.door.lock().unwrap();
        door.get(&member)
            .is_some_and(|now| now.life == running.life)
    }

    async fn read(&self, member: u64, running: &Running) -> Option<BTreeMap<String, u64>> {
        let invoked = self.start.elapsed();
        let read = running.store.range(all("")).await;
        // An answer of a member that has died meanwhile does not get out.
        let response = read.ok().filter(|_| self.is_the_same(member, running))?;
        let contents = response.items.iter().map(|kv| {
            let value = String::from_utf8_lossy(&kv.value).into_owned();
            (kv.key.to_string(), (value, kv.mod_revision))
        });
        let read = Read {
            client: self.number,
            member,
            invoked,
            returned: self.start.elapsed(),
            revision: response.revision,
            contents: contents.collect(),
        };
        let known = read.contents.iter();
        let known = known.map(|(key, (_, at))| (key.clone(), *at)).collect();
        self.recorder.lock().unwrap().reads.push(read);
        Some(known)
    }

    fn txn(&mut self, known: &BTreeMap<String, u64>) -> Txn {
        let mut txn = Txn::default();
        let count = if self.rng.random_bool(0.2) { 2 } else { 1 };
        let first = self.rng.random_range(0..KEYS);
        for key in (first..first + count).map(|key| format!("k/{}", key % KEYS)) {
            if self.rng.random_bool(0.4) {
                let mod_revision = known.get(&key).copied().unwrap_or(0);
                txn.compares.push(Compare {
                    key: key.clone(),
                    mod_revision,
                });
            }
            if self.rng.random_bool(0.12) {
                txn.ops.push(Op::Delete { key });
                continue;
            }
            self.written += 1;
            // Some records have several chunks, so that a crash can tear them.
            let long = if self.rng.random_bool(0.05) {
                13_000
            } else {
                0
            };
            let value = format!("{}.{}{}", self.number, self.written, "x".repeat(long));
            txn.ops.push(Op::Put {
                key,
                value: value.into(),
            });
        }
        txn
    }

    async fn write(&self, member: u64, running: &Running, txn: Txn) {
        let invoked = self.start.elapsed();
        let result = running.store.txn(txn.clone()).await;
        let outcome = match result {
            _ if !self.is_the_same(member, running) => {
                Outcome::Unknown("the member died".to_owned())
            }
            Ok(TxnOutcome::Committed { revision, .. }) => Outcome::Committed(revision),
            Ok(TxnOutcome::Conflict { .. }) => Outcome::Conflict,
            Err(error @ (StoreError::NoLeader(_) | StoreError::DiskFull(_))) => {
                Outcome::Refused(error.to_string())
            }
            Err(error) => Outcome::Unknown(error.to_string()),
        };
        self.recorder.lock().unwrap().writes.push(Write {
            client: self.number,
            member,
            txn,
            invoked,
            returned: self.start.elapsed(),
            outcome,
        });
    }
}

/// Watches everything, at one member after the other, always from where it was.
async fn watcher(
    mut rng: StdRng,
    door: Door,
    recorder: Recorder,
    stop: tokio_util::sync::CancellationToken,
) {
    let mut after = 0;
    while !stop.is_cancelled() {
        sleep(Duration::from_millis(50)).await;
        let chosen = {
            let door = door.lock().unwrap();
            let members: Vec<u64> = door.keys().copied().collect();
            members.choose(&mut rng).map(|id| (*id, door[id].clone()))
        };
        let Some((member, running)) = chosen else {
            continue;
        };
        // One that is behind has to catch up first; one that dies meanwhile never does.
        let reach = running.store.reach(after);
        if tokio::time::timeout(CATCH_UP, reach).await.is_err() {
            continue;
        }
        let Ok(mut watch) = running.store.watch("", after) else {
            continue;
        };
        let mut watched = Watched {
            member,
            from: after,
            complete: after,
            events: Vec::new(),
        };
        let until = Instant::now() + Duration::from_millis(rng.random_range(100..2_500));
        loop {
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(until) => break,
                next = watch.next() => next,
            };
            let Ok((events, complete)) = next else {
                break;
            };
            let same = door
                .lock()
                .unwrap()
                .get(&member)
                .is_some_and(|now| now.life == running.life);
            if !same {
                break;
            }
            watched.events.extend(events.iter().map(Event::of));
            watched.complete = complete;
        }
        after = watched.complete;
        recorder.lock().unwrap().watched.push(watched);
    }
}

async fn note_leaders(door: Door, recorder: Recorder, stop: tokio_util::sync::CancellationToken) {
    while !stop.is_cancelled() {
        sleep(Duration::from_millis(10)).await;
        for (id, running) in door.lock().unwrap().iter() {
            let server = running.store.member.group().server.borrow();
            if server.state.is_leader() {
                let vote = server.vote.leader_id();
                let led = Led {
                    term: vote.get_term(),
                    voted_for: vote.voted_for().unwrap_or_default(),
                    leader: *id,
                    life: running.life,
                };
                let mut recorder = recorder.lock().unwrap();
                if !recorder.led.contains(&led) {
                    recorder.led.push(led);
                }
            }
        }
    }
}
