//! The file of a pod's records, a line each: the last whole one is in force.
//!
//! A pod's record changes a dozen times. A new file for each change costs the file system an inode made and one freed; of
//! those, ext4 without a journal passes over all that were freed lately whenever it makes one.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::de::IgnoredAny;

use super::replace;

const FILE: &str = "state.jsonl";
/// What earlier agents wrote: one record.
const EARLIER: &str = "state.json";
/// Bytes. Beyond that the file begins anew.
const MOST: u64 = 64 * 1024;

/// Adds a record: JSON without a line break. After an error or a crash on the way it is as if it had not been tried.
pub(super) fn append(dir: &Path, record: &[u8]) -> io::Result<()> {
    let mut options = File::options();
    options.append(true).create(true).mode(0o600);
    let path = dir.join(FILE);
    let mut file = match options.open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(dir)?;
            options.open(&path)?
        }
        opened => opened?,
    };
    let length = file.metadata()?.len();
    if length > 0 && length + record.len() as u64 > MOST {
        return replace(dir, FILE, record);
    }
    // What was begun and not ended before stays a line of its own.
    file.write_all(&[b"\n", record].concat())
}

/// The record in force.
pub(super) fn last(dir: &Path) -> io::Result<Vec<u8>> {
    let bytes = match std::fs::read(dir.join(FILE)) {
        Ok(bytes) => Cow::Owned(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Cow::Borrowed(&b""[..]),
        Err(error) => return Err(error),
    };
    match last_whole(&bytes) {
        Some(record) => Ok(record.to_vec()),
        None => std::fs::read(dir.join(EARLIER)),
    }
}

/// Of lines only the last may have been cut off, but for those after which there was an error.
fn last_whole(bytes: &[u8]) -> Option<&[u8]> {
    let mut lines = bytes.rsplit(|byte| *byte == b'\n');
    lines.find(|line| serde_json::from_slice::<IgnoredAny>(line).is_ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;

    fn written(dir: &Path) -> Vec<u8> {
        std::fs::read(dir.join(FILE)).unwrap()
    }

    #[test]
    fn the_last_one_is_in_force_and_no_file_is_made_for_it() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("pod");
        append(&dir, br#"{"n":1}"#).unwrap();
        let inode = std::fs::metadata(dir.join(FILE)).unwrap().ino();
        append(&dir, br#"{"n":2}"#).unwrap();
        assert_eq!(last(&dir).unwrap(), br#"{"n":2}"#);
        assert_eq!(std::fs::metadata(dir.join(FILE)).unwrap().ino(), inode);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    }

    #[test]
    fn wherever_it_is_cut_off_the_one_before_is_in_force() {
        let dir = tempfile::tempdir().unwrap();
        append(dir.path(), br#"{"n":[1,"}"]}"#).unwrap();
        let whole = written(dir.path()).len();
        append(dir.path(), br#"{"n":[2,"}"]}"#).unwrap();
        let bytes = written(dir.path());
        for length in whole..bytes.len() {
            std::fs::write(dir.path().join(FILE), &bytes[..length]).unwrap();
            assert_eq!(last(dir.path()).unwrap(), br#"{"n":[1,"}"]}"#, "{length}");
            append(dir.path(), br#"{"n":3}"#).unwrap();
            assert_eq!(last(dir.path()).unwrap(), br#"{"n":3}"#, "{length}");
        }
    }

    #[test]
    fn what_an_earlier_agent_wrote_is_in_force_until_there_is_another() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(EARLIER), r#"{"n":1}"#).unwrap();
        assert_eq!(last(dir.path()).unwrap(), br#"{"n":1}"#);
        append(dir.path(), br#"{"n":2}"#).unwrap();
        assert_eq!(last(dir.path()).unwrap(), br#"{"n":2}"#);
        let nothing = tempfile::tempdir().unwrap();
        let error = last(nothing.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_file_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..2_000 {
            let record = format!(r#"{{"n":{n},"text":"{}"}}"#, "x".repeat(200));
            append(dir.path(), record.as_bytes()).unwrap();
            assert!(written(dir.path()).len() as u64 <= MOST);
            assert_eq!(last(dir.path()).unwrap(), record.as_bytes());
        }
        // One that is larger than that is kept, too.
        let large = format!(r#""{}""#, "x".repeat(100_000));
        append(dir.path(), large.as_bytes()).unwrap();
        append(dir.path(), b"2").unwrap();
        assert_eq!(last(dir.path()).unwrap(), b"2");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes: Vec<u8>) {
            let found = last_whole(&bytes);
            prop_assert!(found.is_none_or(|line| !line.contains(&b'\n')));
        }
    }
}
