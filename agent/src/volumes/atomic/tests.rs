//! Tests of `volumes::atomic`.

#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

fn file(path: &str, mode: u32, content: &str) -> File {
    File {
        path: path.to_owned(),
        mode,
        owner: None,
        content: content.as_bytes().to_vec(),
    }
}

#[test]
fn a_change_appears_whole_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("v");
    assert!(
        write(
            &volume,
            &[file("a", 0o644, "1"), file("x/y", 0o400, "2")],
            None
        )
        .unwrap()
    );
    assert!(
        !write(
            &volume,
            &[file("a", 0o644, "1"), file("x/y", 0o400, "2")],
            None
        )
        .unwrap()
    );
    assert_eq!(std::fs::read_to_string(volume.join("x/y")).unwrap(), "2");
    let mode = std::fs::metadata(volume.join("x/y"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o400);
    let before = std::fs::read_link(volume.join(DATA)).unwrap();
    // An open directory of the old generation would still be read whole; the names lead to the new one.
    assert!(write(&volume, &[file("b", 0o644, "3")], None).unwrap());
    assert_ne!(std::fs::read_link(volume.join(DATA)).unwrap(), before);
    assert_eq!(std::fs::read_to_string(volume.join("b")).unwrap(), "3");
    let mut names: Vec<String> = std::fs::read_dir(&volume)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with("..") || name == DATA)
        .collect();
    names.sort();
    assert_eq!(names, ["..data", "b"]);
    assert_eq!(std::fs::read_dir(&volume).unwrap().count(), 3);
}

#[test]
fn a_group_reads_what_only_the_owner_might() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let files = [file("x/key", 0o400, "1")];
    // The own group, so that the test needs no privilege.
    let group = nix::unistd::getegid().as_raw();
    assert!(write(dir.path(), &files, Some(group)).unwrap());
    let found = std::fs::metadata(dir.path().join("x/key")).unwrap();
    assert_eq!((found.mode() & 0o7777, found.gid()), (0o440, group));
    assert!(!write(dir.path(), &files, Some(group)).unwrap());
    let parent = std::fs::metadata(dir.path().join("x")).unwrap();
    assert_eq!(parent.mode() & 0o7777, 0o755);
}

#[test]
fn the_layout_is_that_of_data_links() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[file("key", 0o644, "v")], None).unwrap();
    assert_eq!(
        std::fs::read_link(dir.path().join("key")).unwrap(),
        Path::new("..data/key")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_sequence_ends_with_the_last_content(
        generations in prop::collection::vec(
            prop::collection::btree_map("[a-c]{1,2}", "[a-z]{0,5}", 0..4), 1..5)
    ) {
        let dir = tempfile::tempdir().unwrap();
        for generation in &generations {
            let files: Vec<File> = generation
                .iter()
                .map(|(path, content)| file(path, 0o644, content))
                .collect();
            write(dir.path(), &files, None).unwrap();
            for (path, content) in generation {
                prop_assert_eq!(&std::fs::read_to_string(dir.path().join(path)).unwrap(), content);
            }
            let visible = std::fs::read_dir(dir.path())
                .unwrap()
                .filter(|entry| {
                    !entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("..")
                })
                .count();
            prop_assert_eq!(visible, generation.len());
        }
    }
}
