//! Whom a container runs as: names looked up in the passwd and group files of its own root file system.
//!
//! The files come out of an image, so they are hostile: they are opened without following anything out of
//! the root file system, must be regular files, and only the first mebibyte is read.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// Bytes read of either file.
const MAX_FILE: u64 = 1 << 20;
/// The kernel takes at most this many additional groups.
const MAX_GROUPS: usize = 65_536;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum UserError {
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UnknownUser(String),
    #[error("unable to find group {0}: no matching entries in group file")]
    UnknownGroup(String),
    #[error("container has runAsNonRoot and image will run as root")]
    Root,
}

/// A user as the kernel knows one.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The primary group first, then the others, none twice.
    pub(crate) additional_gids: Vec<u32>,
}

/// What was asked for; see [`super::ContainerSpec`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) user: &'a str,
    pub(crate) group: Option<u32>,
    pub(crate) supplemental: &'a [u32],
    pub(crate) non_root: bool,
    /// Only the groups that were asked for.
    pub(crate) strict: bool,
}

/// Reads the files that [`resolve`] needs; missing ones are empty.
pub(crate) fn read_files(rootfs: &Path) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let root = File::open(rootfs)?;
    Ok((
        read_inside(&root, "etc/passwd")?,
        read_inside(&root, "etc/group")?,
    ))
}

fn read_inside(root: &File, path: &str) -> io::Result<Vec<u8>> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = match openat2(root.as_fd(), path, how) {
        Ok(file) => File::from(file),
        // No such file, or something in its place that leads nowhere.
        Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR | nix::errno::Errno::ELOOP) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error.into()),
    };
    let mut content = Vec::new();
    if file.metadata()?.is_file() {
        file.take(MAX_FILE).read_to_end(&mut content)?;
    }
    Ok(content)
}

/// The user of a container (pure).
pub(crate) fn resolve(wanted: &Wanted<'_>, passwd: &[u8], group: &[u8]) -> Result<User, UserError> {
    let (user, explicit_group) = match wanted.user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted.user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    // A name made of digits is a name first, as everywhere in Unix.
    let entry = accounts(passwd)
        .find(|account| account.name == user)
        .or_else(|| {
            let uid: u32 = user.parse().ok()?;
            accounts(passwd).find(|account| account.uid == uid)
        });
    let uid = match (&entry, user.parse()) {
        (Some(account), _) => account.uid,
        (None, Ok(uid)) => uid,
        (None, Err(_)) => return Err(UserError::UnknownUser(user.to_owned())),
    };
    if wanted.non_root && uid == 0 {
        return Err(UserError::Root);
    }
    let gid = match (wanted.group, explicit_group) {
        (Some(gid), _) => gid,
        (None, Some(name)) if !name.is_empty() => find_group(name, group)?,
        (None, _) => entry.as_ref().map_or(0, |account| account.gid),
    };
    let member_of = entry.iter().flat_map(|account| {
        let name = account.name;
        groups(group)
            .filter(move |group| {
                !wanted.strict && group.members.split(',').any(|member| member == name)
            })
            .map(|group| group.gid)
    });
    let mut additional_gids = vec![gid];
    for gid in wanted.supplemental.iter().copied().chain(member_of) {
        if !additional_gids.contains(&gid) && additional_gids.len() < MAX_GROUPS {
            additional_gids.push(gid);
        }
    }
    Ok(User {
        uid,
        gid,
        additional_gids,
    })
}

fn find_group(name: &str, file: &[u8]) -> Result<u32, UserError> {
    let found = groups(file).find(|group| group.name == name);
    match (found, name.parse()) {
        (Some(group), _) => Ok(group.gid),
        (None, Ok(gid)) => Ok(gid),
        (None, Err(_)) => Err(UserError::UnknownGroup(name.to_owned())),
    }
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// `name:password:uid:gid:…` per line; other lines are passed over.
fn accounts(file: &[u8]) -> impl Iterator<Item = Account<'_>> {
    lines(file).filter_map(|line| {
        let mut fields = line.split(':');
        Some(Account {
            name: fields.next()?,
            uid: fields.nth(1)?.parse().ok()?,
            gid: fields.next()?.parse().ok()?,
        })
    })
}

/// `name:password:gid:member,member` per line; other lines are passed over.
fn groups(file: &[u8]) -> impl Iterator<Item = Group<'_>> {
    lines(file).filter_map(|line| {
        let mut fields = line.split(':');
        Some(Group {
            name: fields.next()?,
            gid: fields.nth(1)?.parse().ok()?,
            members: fields.next().unwrap_or(""),
        })
    })
}

fn lines(file: &[u8]) -> impl Iterator<Item = &str> {
    let lines = file.split(|byte| *byte == b'\n');
    lines.filter_map(|line| std::str::from_utf8(line).ok().map(str::trim))
}
