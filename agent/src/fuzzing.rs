//! Parsers of outside bytes, for the fuzz targets in `tests/fuzz`. Compiled with `--cfg fuzzing` only.

/// As a DNS message that came in.
pub fn dns(bytes: &[u8]) {
    crate::dns::fuzz(bytes);
}

/// As an image's manifest, and as its configuration.
pub fn image(bytes: &[u8]) {
    crate::images::fuzz_manifest(bytes);
}

/// As a layer of an image, unpacked to a directory: nothing may appear beside it.
pub fn layer(bytes: &[u8]) {
    crate::images::fuzz_layer(bytes);
}

/// As the kernel's list of sockets.
pub fn sockets(bytes: &[u8]) {
    crate::dataplane::fuzz_sockets(bytes);
}

/// As messages of node sync.
pub fn sync(bytes: &[u8]) {
    crate::sync::fuzz(bytes);
}
