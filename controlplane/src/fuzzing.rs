//! Parsers of outside bytes, for the fuzz targets in `tests/fuzz`. Compiled with `--cfg fuzzing` only.

/// As what a SPDY client sends.
pub fn spdy(bytes: &[u8]) {
    crate::spdy::fuzz(bytes);
}
