//! Clients that do the same for some time, each one request at a time.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::session::{Session, value};

/// Keys that are read and written.
pub(super) const KEYS: u32 = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Write,
    Read,
}

#[derive(Debug)]
pub(super) struct Turn {
    /// Seconds of each request that was answered.
    pub(super) latencies: Vec<f64>,
    pub(super) seconds: f64,
}

impl Turn {
    pub(super) fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.seconds
    }
}

/// Lets each session work for so long; the sessions come back for the next turn.
pub(super) async fn turn<S: Session>(
    sessions: &mut Vec<S>,
    work: Work,
    length: Duration,
) -> anyhow::Result<Turn> {
    let began = Instant::now();
    let count = sessions.len() as u32;
    let tasks = sessions.drain(..).zip(0u32..).map(|(session, number)| {
        tokio::spawn(client(
            session,
            work,
            began,
            length,
            Keys::of(number, count),
        ))
    });
    let tasks: Vec<_> = tasks.collect();
    let mut latencies = Vec::new();
    for task in tasks {
        let (session, mut own) = task.await?.context("a client")?;
        sessions.push(session);
        latencies.append(&mut own);
    }
    Ok(Turn {
        latencies,
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// The keys of one of several clients: no two of them write the same one.
#[derive(Debug)]
struct Keys {
    next: u32,
    first: u32,
    step: u32,
}

impl Keys {
    fn of(number: u32, clients: u32) -> Self {
        Self {
            next: number,
            first: number,
            step: clients.max(1),
        }
    }
}

impl Iterator for Keys {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let key = self.next;
        self.next += self.step;
        if self.next >= KEYS {
            self.next = self.first;
        }
        Some(key)
    }
}

async fn client<S: Session>(
    mut session: S,
    work: Work,
    began: Instant,
    length: Duration,
    mut keys: Keys,
) -> anyhow::Result<(S, Vec<f64>)> {
    let mut latencies = Vec::new();
    while began.elapsed() < length {
        let key = keys.next().context("keys without end")?;
        let start = Instant::now();
        match work {
            Work::Write => {
                // Also between turns no value comes twice.
                let now = std::time::UNIX_EPOCH.elapsed()?.as_nanos() as u64;
                session.write(key, &value(now)).await?;
            }
            Work::Read => session.read(key).await?,
        }
        latencies.push(start.elapsed().as_secs_f64());
    }
    Ok((session, latencies))
}

/// Writes all keys once, so that there is something to read.
pub(super) async fn fill<S: Session>(sessions: &mut Vec<S>) -> anyhow::Result<()> {
    let count = sessions.len() as u32;
    let tasks: Vec<_> = sessions
        .drain(..)
        .zip(0u32..)
        .map(|(mut session, number)| {
            tokio::spawn(async move {
                for key in (number..KEYS).step_by(count as usize) {
                    session.write(key, &value(u64::from(key))).await?;
                }
                anyhow::Ok(session)
            })
        })
        .collect();
    for task in tasks {
        sessions.push(task.await??);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_clients_write_the_same_key() {
        let clients = 64;
        let of = |number| Keys::of(number, clients).take(40).collect::<Vec<_>>();
        let (a, b) = (of(0), of(63));
        assert!(a.iter().chain(&b).all(|key| *key < KEYS));
        assert!(a.iter().all(|key| !b.contains(key)));
        assert_eq!(Keys::of(0, 1).take(KEYS as usize + 1).last(), Some(0));
    }
}
