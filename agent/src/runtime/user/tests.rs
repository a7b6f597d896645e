//! Tests of `runtime::user`.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::*;

const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh
app:x:1000:1001:An app:/srv:/bin/false
# a comment
broken:x:many:0
2000:x:7:7:a name made of digits:/:
bin:x:2:2:bin:/bin:/usr/sbin/nologin
";
const GROUP: &[u8] = b"root:x:0:
audio:x:29:other,app
video:x:44:app
nearly:x:45:apple
empty
";

fn wanted(user: &str) -> Wanted<'_> {
    Wanted {
        user,
        group: None,
        supplemental: &[],
        non_root: false,
        strict: false,
    }
}

fn ids(user: &str) -> Result<(u32, u32, Vec<u32>), UserError> {
    let user = resolve(&wanted(user), PASSWD, GROUP)?;
    Ok((user.uid, user.gid, user.additional_gids))
}

#[test]
fn users_are_names_or_numbers() {
    assert_eq!(ids("").unwrap(), (0, 0, vec![0]));
    assert_eq!(ids("root").unwrap(), (0, 0, vec![0]));
    assert_eq!(ids("app").unwrap(), (1000, 1001, vec![1001, 29, 44]));
    assert_eq!(ids("1000").unwrap(), (1000, 1001, vec![1001, 29, 44]));
    assert_eq!(ids("app:audio").unwrap(), (1000, 29, vec![29, 44]));
    assert_eq!(ids("app:5").unwrap(), (1000, 5, vec![5, 29, 44]));
    assert_eq!(ids("4242").unwrap(), (4242, 0, vec![0]));
    assert_eq!(ids("4242:17").unwrap(), (4242, 17, vec![17]));
    assert_eq!(ids(":17").unwrap(), (0, 17, vec![17]));
    assert_eq!(ids("2000").unwrap().0, 7);
    assert_eq!(
        ids("nobody"),
        Err(UserError::UnknownUser("nobody".to_owned()))
    );
    assert_eq!(
        ids("broken"),
        Err(UserError::UnknownUser("broken".to_owned()))
    );
    assert_eq!(ids("-1"), Err(UserError::UnknownUser("-1".to_owned())));
    assert_eq!(
        ids("app:none"),
        Err(UserError::UnknownGroup("none".to_owned()))
    );
}

#[test]
fn the_pod_has_the_last_word_on_groups() {
    let mut wanted = wanted("app:audio");
    wanted.group = Some(3000);
    wanted.supplemental = &[44, 9, 9];
    let user = resolve(&wanted, PASSWD, GROUP).unwrap();
    assert_eq!(
        (user.gid, user.additional_gids),
        (3000, vec![3000, 44, 9, 29])
    );
}

#[test]
fn root_is_refused_when_it_must_not_be() {
    for user in ["", "root", "0", "0:5"] {
        let mut wanted = wanted(user);
        wanted.non_root = true;
        let error = resolve(&wanted, PASSWD, GROUP).unwrap_err();
        let text = "container has runAsNonRoot and image will run as root";
        assert_eq!(error.to_string(), text);
    }
    let mut wanted = wanted("app");
    wanted.non_root = true;
    assert!(resolve(&wanted, PASSWD, GROUP).is_ok());
}

#[test]
fn files_are_read_inside_the_root_only() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let etc = root.join("etc");
    assert_eq!(
        {
            std::fs::create_dir(&root).unwrap();
            read_files(&root).unwrap()
        },
        (Vec::new(), Vec::new())
    );
    std::fs::create_dir(&etc).unwrap();
    std::fs::write(dir.path().join("outside"), "out").unwrap();
    // A link to the outside leads to a file of that name inside, which is not there.
    symlink(dir.path().join("outside"), etc.join("passwd")).unwrap();
    symlink("../../outside", etc.join("group")).unwrap();
    assert_eq!(read_files(&root).unwrap(), (Vec::new(), Vec::new()));
    // Neither pipes, on which opening would wait, nor directories, nor loops.
    std::fs::remove_file(etc.join("passwd")).unwrap();
    std::fs::remove_file(etc.join("group")).unwrap();
    nix::unistd::mkfifo(&etc.join("passwd"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("group", etc.join("group")).unwrap();
    assert_eq!(read_files(&root).unwrap(), (Vec::new(), Vec::new()));
    // A link within the image is fine; a huge file is cut.
    std::fs::remove_file(etc.join("passwd")).unwrap();
    std::fs::remove_file(etc.join("group")).unwrap();
    std::fs::create_dir(root.join("usr")).unwrap();
    std::fs::write(root.join("usr/passwd"), PASSWD).unwrap();
    symlink("/usr/passwd", etc.join("passwd")).unwrap();
    std::fs::write(etc.join("group"), vec![b'x'; 3 << 20]).unwrap();
    let (passwd, group) = read_files(&root).unwrap();
    assert_eq!(passwd, PASSWD);
    assert_eq!(group.len() as u64, MAX_FILE);
}

proptest! {
    #[test]
    fn anything_is_taken(user in ".{0,20}", passwd: Vec<u8>, group: Vec<u8>) {
        let _ = resolve(&wanted(&user), &passwd, &group);
    }

    #[test]
    fn lines_that_look_right_are_taken(
        user in "[a-z0-9:]{0,6}",
        passwd in "([a-z0-9]{0,3}:x:[0-9]{0,12}:[0-9]{0,12}:\n){0,8}",
        group in "([a-z0-9]{0,3}:x:[0-9]{0,12}:[a-z0-9,]{0,9}\n){0,8}",
        supplemental: Vec<u32>,
    ) {
        let wanted = Wanted { supplemental: &supplemental, ..wanted(&user) };
        if let Ok(user) = resolve(&wanted, passwd.as_bytes(), group.as_bytes()) {
            prop_assert_eq!(user.additional_gids[0], user.gid);
            let mut unique = user.additional_gids.clone();
            unique.sort_unstable();
            unique.dedup();
            prop_assert_eq!(unique.len(), user.additional_gids.len());
        }
    }
}
