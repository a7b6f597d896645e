//! Lets the plain types of `agent-ebpf` be keys and values of aya's maps.

use agent_ebpf::layout::Plain;

use super::error::DataPlaneError;

/// A key or value as it lies in a map.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Wire<T>(pub(crate) T);

// SAFETY: `Plain` promises repr(C), any bit pattern valid, no implicit padding; Wire is transparent.
unsafe impl<T: Plain> aya::Pod for Wire<T> {}

/// Whether a map says that it has no such key: what removing is about.
pub(crate) fn is_missing(error: &aya::maps::MapError) -> bool {
    use aya::maps::MapError;
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => error.io_error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Removes an entry, if it is there.
pub(crate) fn remove_key(
    result: Result<(), aya::maps::MapError>,
    map: &'static str,
) -> Result<(), DataPlaneError> {
    match result {
        Err(error) if !is_missing(&error) => Err(DataPlaneError::map(map)(error)),
        _ => Ok(()),
    }
}
