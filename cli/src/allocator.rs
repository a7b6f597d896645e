//! The memory allocator of all roles: jemalloc.
//!
//! A controller allocates in all threads, small and large, and frees elsewhere; glibc spent a fifth of its processor time
//! on that, and kept the gaps between what is in use until it was told to give them back. How many arenas there are is in
//! `.cargo/config.toml`.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What nobody uses goes back to the system some seconds later, also while nothing is allocated. That takes a thread, so
/// it is for processes that stay.
pub(crate) fn give_back_in_background() {
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        tracing::warn!(%error, "memory that is free is given back only while other memory is allocated");
    }
}

/// How long an agent keeps what it does not use.
const SOON: isize = 1_000;

/// For an agent: what nobody uses goes back after a second instead of ten. It has its peaks when it starts and when many
/// pods begin, and is nearly idle in between; what it gives back too early costs it little.
pub(crate) fn give_back_soon() {
    let set = |name: &str| {
        // SAFETY: the name ends with a zero, and the value has the type that the documentation gives it (`ssize_t`).
        unsafe { tikv_jemalloc_ctl::raw::write(name.as_bytes(), SOON) }
    };
    if let Err(error) = set("arenas.dirty_decay_ms\0") {
        tracing::warn!(%error, "memory that is free is kept longer");
    }
    for arena in 0..tikv_jemalloc_ctl::arenas::narenas::read().unwrap_or_default() {
        // One that is not there yet will have what was set above.
        let _ = set(&format!("arena.{arena}.dirty_decay_ms\0"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_agent_keeps_free_memory_for_a_second() {
        give_back_soon();
        for name in ["arenas.dirty_decay_ms\0", "arena.0.dirty_decay_ms\0"] {
            // SAFETY: the name ends with a zero; the type is the documented one.
            let kept: isize = unsafe { tikv_jemalloc_ctl::raw::read(name.as_bytes()) }.unwrap();
            assert_eq!(kept, SOON, "{name}");
        }
    }
}
