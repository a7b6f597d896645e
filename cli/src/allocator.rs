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
