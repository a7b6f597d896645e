//! So that no client takes everything: how much each has under way.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts by client address; a client with nothing under way costs nothing.
#[derive(Debug, Clone)]
pub(super) struct Shares {
    counts: Arc<Mutex<Counts>>,
    all: usize,
    each: usize,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    of: HashMap<IpAddr, usize>,
}

/// One thing under way; dropping it ends that.
#[derive(Debug)]
pub(super) struct Share {
    shares: Shares,
    client: IpAddr,
}

impl Shares {
    /// At most `all` in all and `each` for one client.
    pub(super) fn new(all: usize, each: usize) -> Self {
        Self {
            counts: Arc::default(),
            all,
            each,
        }
    }

    pub(super) fn take(&self, client: IpAddr) -> Option<Share> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let own = counts.of.get(&client).copied().unwrap_or(0);
        if counts.total >= self.all || own >= self.each {
            return None;
        }
        counts.total += 1;
        counts.of.insert(client, own + 1);
        drop(counts);
        Some(Share {
            shares: self.clone(),
            client,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = self
            .shares
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        counts.total -= 1;
        match counts.of.get(&self.client) {
            Some(own) if *own > 1 => {
                let less = *own - 1;
                counts.of.insert(self.client, less);
            }
            _ => drop(counts.of.remove(&self.client)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nobody_takes_more_than_a_share_and_all_no_more_than_there_is() {
        let ip = |n: u8| IpAddr::from([10, 0, 0, n]);
        let shares = Shares::new(5, 2);
        let first: Vec<Share> = (0..2).map(|_| shares.take(ip(1)).unwrap()).collect();
        assert!(shares.take(ip(1)).is_none());
        let second: Vec<Share> = (0..2).map(|_| shares.take(ip(2)).unwrap()).collect();
        let third = shares.take(ip(3)).unwrap();
        assert!(shares.take(ip(4)).is_none(), "five are all");
        drop(first);
        assert!(shares.take(ip(4)).is_some());
        drop((second, third));
        let counts = shares.counts.lock().unwrap();
        assert_eq!((counts.total, counts.of.len()), (0, 0));
    }
}
