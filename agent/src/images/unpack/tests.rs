//! Archives that behave and archives that do not.
#![allow(clippy::unwrap_used)]

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use proptest::prelude::*;

use super::*;

/// One entry; names and targets go into the header as they are, however wrong.
struct Entry<'a> {
    kind: EntryType,
    path: &'a [u8],
    target: &'a [u8],
    content: &'a [u8],
    mode: u32,
}

fn entry<'a>(kind: EntryType, path: &'a str, target: &'a str) -> Entry<'a> {
    Entry {
        kind,
        path: path.as_bytes(),
        target: target.as_bytes(),
        content: b"",
        mode: 0o755,
    }
}

fn file<'a>(path: &'a str, content: &'a str) -> Entry<'a> {
    Entry {
        content: content.as_bytes(),
        mode: 0o644,
        ..entry(EntryType::Regular, path, "")
    }
}

fn header(entry: &Entry<'_>) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    // Not through set_path: it refuses what an attacker would write.
    let old = header.as_old_mut();
    old.name[..entry.path.len()].copy_from_slice(entry.path);
    old.linkname[..entry.target.len()].copy_from_slice(entry.target);
    header.set_entry_type(entry.kind);
    header.set_mode(entry.mode);
    header.set_uid(1);
    header.set_gid(2);
    header.set_mtime(1_000_000);
    header.set_size(entry.content.len() as u64);
    header.set_device_major(0).unwrap();
    header.set_device_minor(0).unwrap();
    header.set_cksum();
    header
}

fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        builder.append(&header(entry), entry.content).unwrap();
    }
    builder.into_inner().unwrap()
}

struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    /// For many cases in a row: in memory where that is possible.
    fn quick() -> Self {
        Self::at(
            tempfile::tempdir_in("/dev/shm")
                .or_else(|_| tempfile::tempdir())
                .unwrap(),
        )
    }

    fn at(dir: tempfile::TempDir) -> Self {
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn unpack(&self, archive: &[u8]) -> Result<Digest, UnpackError> {
        unpack(archive, &self.root(), &[], Limits::default())
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap()
    }

    fn assert_outside_untouched(&self) {
        let mut names: Vec<_> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["outside", "root"]);
        let outside: Vec<_> = fs::read_dir(self.dir.path().join("outside"))
            .unwrap()
            .collect();
        assert_eq!(outside.len(), 1);
        let secret = self.dir.path().join("outside/secret");
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert_eq!(fs::metadata(&secret).unwrap().nlink(), 1);
    }
}

#[test]
fn an_ordinary_layer_is_unpacked_as_it_is() {
    let s = Scratch::new();
    let bytes = archive(&[
        entry(EntryType::Directory, "./", ""),
        entry(EntryType::Directory, "./dir/", ""),
        file("./dir/file", "content"),
        Entry {
            mode: 0o4711,
            ..file("suid", "x")
        },
        entry(EntryType::Symlink, "link", "/dir/file"),
        entry(EntryType::Link, "hard", "./dir/file"),
        entry(EntryType::Fifo, "fifo", ""),
        file("implied/deep/file", "y"),
    ]);
    assert_eq!(s.unpack(&bytes).unwrap(), Digest::of(&bytes));
    assert_eq!(s.read("dir/file"), "content");
    let root = s.root();
    assert_eq!(
        fs::metadata(root.join("suid")).unwrap().mode() & 0o7777,
        0o4711
    );
    assert_eq!(
        fs::read_link(root.join("link")).unwrap(),
        Path::new("/dir/file")
    );
    let (a, b) = (root.join("hard"), root.join("dir/file"));
    assert_eq!(
        fs::metadata(a).unwrap().ino(),
        fs::metadata(b).unwrap().ino()
    );
    assert!(
        fs::symlink_metadata(root.join("fifo"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    for path in ["", "dir", "dir/file", "link", "suid"] {
        let metadata = fs::symlink_metadata(root.join(path)).unwrap();
        assert_eq!(
            (metadata.uid(), metadata.gid(), metadata.mtime()),
            (1, 2, 1_000_000),
            "{path}"
        );
    }
}

#[test]
fn compressed_layers_have_the_digest_of_what_is_in_them() {
    let bytes = archive(&[file("a", "b")]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&bytes).unwrap();
    for compressed in [
        gzip.finish().unwrap(),
        zstd::encode_all(bytes.as_slice(), 1).unwrap(),
    ] {
        let s = Scratch::new();
        assert_eq!(s.unpack(&compressed).unwrap(), Digest::of(&bytes));
        assert_eq!(s.read("a"), "b");
    }
}

#[test]
fn what_leads_outside_is_refused_or_stays_inside() {
    use EntryType::{Block, Char, Link, Symlink};
    let outside_link =
        |target: &'static str| vec![entry(Symlink, "l", target), file("l/evil", "x")];
    let cases: Vec<(&str, Vec<Entry<'_>>, bool)> = vec![
        ("dot dot", vec![file("../evil", "x")], false),
        ("dot dot within", vec![file("a/../../evil", "x")], false),
        (
            "dot dot whiteout",
            vec![file("../outside/.wh.secret", "")],
            false,
        ),
        ("whiteout of dot dot", vec![file("a/.wh...", "")], false),
        ("whiteout of dot", vec![file(".wh..", "")], false),
        ("whiteout of nothing", vec![file(".wh.", "")], false),
        (
            "hard link out",
            vec![entry(Link, "l", "../outside/secret")],
            false,
        ),
        (
            "hard link absolute",
            vec![entry(Link, "l", "/etc/passwd")],
            false,
        ),
        ("hard link to nothing", vec![entry(Link, "l", "")], false),
        ("raw whiteout", vec![entry(Char, "gone", "")], false),
        ("empty symlink", vec![entry(Symlink, "l", "")], false),
        ("absolute name", vec![file("/etc/evil", "x")], true),
        ("through a relative link", outside_link("../outside"), true),
        (
            "through an absolute link",
            outside_link("/proc/self/root"),
            true,
        ),
        ("through a link to the root", outside_link("/"), true),
        (
            "opaque through a link",
            vec![
                entry(Symlink, "l", "../outside"),
                file("l/.wh..wh..opq", ""),
            ],
            true,
        ),
        (
            "hard link through a link",
            vec![
                entry(Symlink, "l", "../outside"),
                entry(Link, "h", "l/secret"),
            ],
            false,
        ),
        ("block device", vec![entry(Block, "disk", "")], true),
    ];
    for (name, entries, accepted) in cases {
        let s = Scratch::new();
        let result = s.unpack(&archive(&entries));
        assert_eq!(result.is_ok(), accepted, "{name}: {result:?}");
        s.assert_outside_untouched();
    }
    // The link's own target inside the root was made where it points to.
    let s = Scratch::new();
    s.unpack(&archive(&outside_link("../outside"))).unwrap();
    assert!(
        !s.root().join("l").is_symlink(),
        "a dangling link cannot have children"
    );
    assert_eq!(s.read("l/evil"), "x");
}

#[test]
fn a_link_inside_the_layer_is_followed() {
    let s = Scratch::new();
    let bytes = archive(&[
        entry(EntryType::Directory, "usr/lib", ""),
        entry(EntryType::Symlink, "lib", "/usr/lib"),
        file("lib/so", "x"),
    ]);
    s.unpack(&bytes).unwrap();
    assert_eq!(s.read("usr/lib/so"), "x");
}

#[test]
fn later_entries_replace_earlier_ones() {
    let s = Scratch::new();
    let bytes = archive(&[
        entry(EntryType::Directory, "a", ""),
        file("a/b", "old"),
        file("a", "now a file"),
        file("c", "file"),
        file("c/d", "c is a directory now"),
        file("e", "1"),
        entry(EntryType::Link, "f", "e"),
        file("e", "2"),
        entry(EntryType::Symlink, "g", "/outside"),
        file("g", "no link any more"),
    ]);
    s.unpack(&bytes).unwrap();
    assert_eq!(s.read("a"), "now a file");
    assert_eq!(s.read("c/d"), "c is a directory now");
    assert_eq!((s.read("e"), s.read("f")), ("2".into(), "1".into()));
    assert!(!s.root().join("g").is_symlink());
}

#[test]
fn missing_parents_look_like_those_below() {
    let dir = tempfile::tempdir().unwrap();
    let (below, root) = (dir.path().join("below"), dir.path().join("root"));
    fs::create_dir(&below).unwrap();
    fs::create_dir(&root).unwrap();
    let lower = archive(&[
        Entry {
            mode: 0o1777,
            ..entry(EntryType::Directory, "tmp", "")
        },
        Entry {
            mode: 0o711,
            ..entry(EntryType::Directory, "./", "")
        },
    ]);
    unpack(lower.as_slice(), &below, &[], Limits::default()).unwrap();
    let upper = archive(&[file("tmp/x", "")]);
    unpack(upper.as_slice(), &root, &[below], Limits::default()).unwrap();
    let metadata = fs::metadata(root.join("tmp")).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o1777, 1));
    assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, 0o711);
}

#[test]
fn a_whiteout_and_a_new_directory_of_one_name_hide_what_is_below() {
    for entries in [
        [file(".wh.dir", ""), file("dir/new", "x")],
        [file("dir/new", "x"), file(".wh.dir", "")],
    ] {
        let s = Scratch::new();
        s.unpack(&archive(&entries)).unwrap();
        assert_eq!(s.read("dir/new"), "x");
        assert_eq!(
            xattr(&s.root().join("dir"), c"trusted.overlay.opaque"),
            Some(b"y".to_vec())
        );
    }
}

fn xattr(path: &Path, name: &std::ffi::CStr) -> Option<Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut value = vec![0_u8; 256];
    // SAFETY: both names are NUL-terminated, the buffer is as long as said.
    let length = unsafe {
        libc::lgetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    value.truncate(usize::try_from(length).ok()?);
    Some(value)
}

#[test]
fn attributes_are_kept_and_overlayfs_own_are_not_taken() {
    let mut builder = tar::Builder::new(Vec::new());
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    builder
        .append_pax_extensions([
            ("SCHILY.xattr.user.note", b"kept".as_slice()),
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("mtime", b"1234.5"),
        ])
        .unwrap();
    builder
        .append(&header(&file("f", "x")), b"x".as_slice())
        .unwrap();
    let s = Scratch::new();
    s.unpack(&builder.into_inner().unwrap()).unwrap();
    let path = s.root().join("f");
    assert_eq!(xattr(&path, c"user.note"), Some(b"kept".to_vec()));
    assert_eq!(
        xattr(&path, c"security.capability"),
        Some(capability.to_vec())
    );
    for name in [
        c"trusted.overlay.redirect",
        c"trusted.overlay.opaque",
        c"user.overlay.opaque",
    ] {
        assert_eq!(xattr(&path, name), None, "{name:?}");
    }
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(
        (metadata.mtime(), metadata.mtime_nsec()),
        (1234, 500_000_000)
    );
}

#[test]
fn bombs_are_cut_off() {
    let limits = Limits {
        bytes: 100_000,
        entries: 10,
    };
    let try_unpack = |bytes: &[u8]| {
        let s = Scratch::new();
        unpack(bytes, &s.root(), &[], limits).unwrap_err()
    };
    let zeros = "\0".repeat(200_000);
    let plain = archive(&[file("big", &zeros)]);
    assert!(matches!(try_unpack(&plain), UnpackError::TooLarge(_)));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&plain).unwrap();
    let gzip = gzip.finish().unwrap();
    assert!(gzip.len() < 2000);
    assert!(matches!(try_unpack(&gzip), UnpackError::TooLarge(_)));
    let names: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    let many: Vec<Entry<'_>> = names.iter().map(|n| file(n, "")).collect();
    assert!(matches!(
        try_unpack(&archive(&many)),
        UnpackError::TooMany(10)
    ));

    // A long name of 8 MiB: the reader would keep it in memory.
    let name = vec![b'a'; 8 << 20];
    let long = Entry {
        content: &name,
        ..entry(EntryType::GNULongName, "././@LongLink", "")
    };
    let mut gnu = tar::Header::new_gnu();
    gnu.as_mut_bytes().copy_from_slice(header(&long).as_bytes());
    let mut builder = tar::Builder::new(Vec::new());
    gnu.set_cksum();
    builder.append(&gnu, long.content).unwrap();
    builder
        .append(&header(&file("x", "")), b"".as_slice())
        .unwrap();
    let s = Scratch::new();
    let error = s.unpack(&builder.into_inner().unwrap()).unwrap_err();
    assert!(matches!(error, UnpackError::TooLarge(_)), "{error}");
}

/// Names out of few parts, so that entries meet, and links lead to and fro.
fn hostile_path() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => Just("a"),
        4 => Just("b"),
        1 => Just(".."),
        1 => Just("."),
        1 => Just(""),
        1 => Just("outside"),
        1 => Just("secret"),
        1 => Just(".wh.a"),
        1 => Just(".wh..wh..opq"),
    ];
    proptest::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"))
}

fn hostile_kind() -> impl Strategy<Value = EntryType> {
    prop_oneof![
        Just(EntryType::Regular),
        Just(EntryType::Directory),
        Just(EntryType::Symlink),
        Just(EntryType::Link),
        Just(EntryType::Fifo),
        Just(EntryType::Block),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nothing_outside_is_ever_touched(
        entries in proptest::collection::vec((hostile_kind(), hostile_path(), hostile_path()), 1..12)
    ) {
        let s = Scratch::quick();
        let entries: Vec<Entry<'_>> = entries
            .iter()
            .map(|(kind, path, target)| Entry {
                content: if *kind == EntryType::Regular { b"evil" } else { b"" },
                ..entry(*kind, path, target)
            })
            .collect();
        let _ = s.unpack(&archive(&entries));
        s.assert_outside_untouched();
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let _ = Scratch::quick().unpack(&bytes);
    }

    #[test]
    fn flipped_bits_never_panic(at in 0..4096_usize, bit in 0..8_u32) {
        let mut bytes = archive(&[file("a/b", "content"), entry(EntryType::Link, "c", "a/b")]);
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let s = Scratch::quick();
        let _ = s.unpack(&bytes);
        s.assert_outside_untouched();
    }
}
