//! Sizes of a terminal, which come as JSON objects one after the other, cut anywhere. Pure.

use serde::Deserialize;

/// Far more than one size takes.
const MAX: usize = 1 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Size {
    pub(super) width: u16,
    pub(super) height: u16,
}

#[derive(Debug, Default)]
pub(super) struct Sizes {
    rest: Vec<u8>,
}

impl Sizes {
    /// The last whole size that has come: those before it are of the past. What is no size is passed over.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Option<Size> {
        self.rest.extend_from_slice(bytes);
        let mut last = None;
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'}') {
            let text: Vec<u8> = self.rest.drain(..=end).collect();
            last = serde_json::from_slice(&text).ok().or(last);
        }
        if self.rest.len() > MAX {
            self.rest.clear();
        }
        last
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const fn size(width: u16, height: u16) -> Option<Size> {
        Some(Size { width, height })
    }

    #[test]
    fn the_last_whole_size_counts() {
        let mut sizes = Sizes::default();
        assert_eq!(sizes.push(b"{\"Width\":80,\"Height\":24}\n"), size(80, 24));
        assert_eq!(sizes.push(b"{\"Width\":100,"), None);
        let rest = b"\"Height\":50}{\"Width\":1,\"Height\":2}";
        assert_eq!(sizes.push(rest), size(1, 2));
        assert_eq!(
            sizes.push(b"nonsense}{\"Width\":7,\"Height\":8}"),
            size(7, 8)
        );
        assert_eq!(sizes.push(b"{\"Width\":70000,\"Height\":8}"), None);
    }

    proptest! {
        #[test]
        fn holds_little(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            let mut sizes = Sizes::default();
            for part in bytes.chunks(100) {
                sizes.push(part);
                prop_assert!(sizes.rest.len() <= MAX);
            }
        }
    }
}
