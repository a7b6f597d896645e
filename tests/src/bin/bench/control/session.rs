//! What a client does, whomever it talks to.

use std::future::Future;

/// Bytes of a value.
pub(super) const VALUE: usize = 256;

/// One client with a connection of its own.
pub(super) trait Session: Send + 'static {
    /// Returns when the value is acknowledged.
    fn write(&mut self, key: u32, value: &str) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// A linearizable read.
    fn read(&mut self, key: u32) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// A value that differs from all others, so that no write is one of nothing.
pub(super) fn value(number: u64) -> String {
    let mut text = format!("{number:020}-");
    let filler = "abcdefghijklmnopqrstuvwxyz012345";
    while text.len() < VALUE {
        let rest = (VALUE - text.len()).min(filler.len());
        text.push_str(&filler[..rest]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_one_size_and_differ() {
        assert_eq!(value(7).len(), VALUE);
        assert_ne!(value(7), value(8));
    }
}
