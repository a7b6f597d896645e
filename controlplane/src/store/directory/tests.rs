//! The lock, the format record and the watermark.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

#[test]
fn a_second_holder_is_refused_and_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = Directory::open(dir.path()).unwrap();
    let error = Directory::open(dir.path()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, StoreError::Locked { .. }));
    assert!(text.contains(&dir.path().display().to_string()), "{text}");
    assert!(
        text.contains(&format!("process {}", std::process::id())),
        "{text}"
    );
    drop(first);
    Directory::open(dir.path()).unwrap();
}

#[test]
fn an_unknown_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Directory::open(dir.path()).unwrap());
    std::fs::write(dir.path().join("format"), "waggle-store 3\n").unwrap();
    let error = Directory::open(dir.path()).unwrap_err();
    assert!(matches!(
        error,
        StoreError::Format {
            found: 3,
            known: 2,
            ..
        }
    ));
    assert!(error.to_string().contains("has format 3"), "{error}");
}

#[test]
fn data_from_before_the_journal_are_taken_over_and_say_so() {
    let dir = tempfile::tempdir().unwrap();
    drop(Directory::open(dir.path()).unwrap());
    std::fs::write(dir.path().join("format"), "waggle-store 1\n").unwrap();
    drop(Directory::open(dir.path()).unwrap());
    let format = std::fs::read_to_string(dir.path().join("format")).unwrap();
    assert_eq!(format, "waggle-store 2\n");
}

#[test]
fn data_without_a_format_record_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    assert!(matches!(
        Directory::open(dir.path()),
        Err(StoreError::Corrupt(_))
    ));
    std::fs::write(dir.path().join("format"), "something else").unwrap();
    assert!(matches!(
        Directory::open(dir.path()),
        Err(StoreError::Corrupt(_))
    ));
}

#[test]
fn the_directory_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/store");
    drop(Directory::open(&path).unwrap());
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn the_watermark_is_found_again_and_damage_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::open(dir.path()).unwrap();
    let mut watermark = directory.watermark().unwrap();
    assert_eq!(watermark.index(), 0);
    watermark.raise(7).unwrap();
    watermark.raise(5).unwrap();
    assert_eq!(directory.watermark().unwrap().index(), 7);
    watermark.lower(3).unwrap();
    assert_eq!(directory.watermark().unwrap().index(), 3);
    let path = dir.path().join("watermark");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[3] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(matches!(directory.watermark(), Err(StoreError::Corrupt(_))));
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..20), text in ".{0,30}") {
        let _ = parse_watermark(&bytes);
        let _ = parse_format(&text);
    }
}
