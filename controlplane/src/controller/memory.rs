//! Gives memory back to the system that the allocator keeps though nobody uses it.
//!
//! Each write passes through trees many times the size of what is kept of it, and what is kept lies between them; glibc
//! gives back by itself only what is free at the end of its heap. After thousands of writes that was half of the memory.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_secs(10);
/// Not worth the work below this.
const LEAST: usize = 16 << 20;

/// Looks until it is stopped.
pub(super) async fn keep_small(stop: CancellationToken) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        // It takes some milliseconds for each hundred MiB. A panic in there would be the allocator's.
        let _ = tokio::task::spawn_blocking(look).await;
    }
}

fn look() {
    let Some((resident, used)) = allocator::resident().zip(allocator::used()) else {
        return;
    };
    if is_worth(resident, used) {
        allocator::give_back();
    }
}

/// Whether much of what is resident (without files) is not in use: more than a tenth.
fn is_worth(resident: usize, used: usize) -> bool {
    let unused = resident.saturating_sub(used);
    unused >= LEAST && unused > resident / 10
}

#[cfg(target_env = "gnu")]
mod allocator {
    /// Bytes of memory that is resident and no file's.
    pub(super) fn resident() -> Option<usize> {
        let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
        let mut pages = pages.split(' ').skip(1).map(str::parse::<usize>);
        let (all, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
        // SAFETY: it reads a number that does not change.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        Some(all.saturating_sub(shared) * usize::try_from(page).ok()?)
    }

    /// Bytes that are allocated.
    pub(super) fn used() -> Option<usize> {
        // SAFETY: it takes no pointers, and locks what it looks at.
        let info = unsafe { libc::mallinfo2() };
        Some(info.uordblks + info.hblkhd)
    }

    pub(super) fn give_back() {
        // SAFETY: as above.
        unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(not(target_env = "gnu"))]
mod allocator {
    pub(super) fn resident() -> Option<usize> {
        None
    }

    pub(super) fn used() -> Option<usize> {
        None
    }

    pub(super) fn give_back() {}
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn little_is_left_alone() {
        let mib = |count: usize| count << 20;
        assert!(!is_worth(mib(40), mib(25)), "too little");
        assert!(is_worth(mib(40), mib(20)));
        assert!(!is_worth(mib(1_000), mib(950)), "a small part");
        assert!(is_worth(mib(1_000), mib(850)));
        assert!(!is_worth(mib(10), mib(20)), "not touched yet");
    }

    #[test]
    fn what_is_allocated_is_in_use() {
        const KEPT: usize = 64 << 20;
        let kept = vec![1_u8; KEPT];
        assert!(allocator::used().unwrap() >= KEPT);
        assert!(allocator::resident().unwrap() >= KEPT);
        allocator::give_back();
        assert!(kept.iter().all(|byte| *byte == 1));
    }
}
