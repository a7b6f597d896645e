//! Huge pages: how many of which size the kernel keeps, and what Kubernetes calls them.

use std::collections::BTreeMap;
use std::path::Path;

/// A directory for each size, `hugepages-2048kB`.
const SIZES: &str = "/sys/kernel/mm/hugepages";

/// Number of pages by their size in bytes; sizes of which there is none are there, too.
pub(crate) fn read() -> BTreeMap<u64, u64> {
    let entries = std::fs::read_dir(SIZES).into_iter().flatten().flatten();
    let pages = entries.filter_map(|entry| {
        let size = size(entry.file_name().to_str()?)?;
        Some((size, count(&entry.path())))
    });
    pages.collect()
}

fn count(dir: &Path) -> u64 {
    let text = std::fs::read_to_string(dir.join("nr_hugepages")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Bytes, from the name of a directory.
fn size(name: &str) -> Option<u64> {
    let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
    kib.parse::<u64>().ok()?.checked_mul(1024)
}

/// Bytes with the largest binary suffix that leaves a whole number, as quantities of memory are written.
pub(crate) fn binary(bytes: u64) -> String {
    let units = [
        (1 << 40, "Ti"),
        (1 << 30, "Gi"),
        (1 << 20, "Mi"),
        (1 << 10, "Ki"),
    ];
    let fits = |(unit, _): &&(u64, &str)| bytes > 0 && bytes.is_multiple_of(*unit);
    match units.iter().find(fits) {
        Some((unit, suffix)) => format!("{}{suffix}", bytes / unit),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_amounts_have_their_names() {
        assert_eq!(size("hugepages-2048kB"), Some(2 << 20));
        assert_eq!(size("hugepages-x"), None);
        for (bytes, text) in [
            (0, "0"),
            (2 << 20, "2Mi"),
            (1 << 30, "1Gi"),
            (64 << 10, "64Ki"),
            (3 << 29, "1536Mi"),
            (1_000, "1000"),
        ] {
            assert_eq!(binary(bytes), text);
        }
    }
}
