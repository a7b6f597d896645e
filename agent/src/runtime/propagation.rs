//! Whether mounts below a volume can be seen on both sides: what is mounted where it lies must be shared.

use std::io;
use std::path::{Path, PathBuf};

use super::{Mount, Propagation};

/// Fails for the first mount that asks for what cannot be.
pub(super) fn check(mounts: &[Mount]) -> io::Result<()> {
    let asks = |mount: &&Mount| mount.propagation != Propagation::None;
    let mut asking = mounts.iter().filter(asks).peekable();
    if asking.peek().is_none() {
        return Ok(());
    }
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    asking.try_for_each(|mount| {
        let source = mount.source.canonicalize()?;
        refused(&table, &source, mount.propagation).map_or(Ok(()), |why| Err(io::Error::other(why)))
    })
}

/// Why mounts at or below `source` would not be seen as asked for, by the table of /proc/self/mountinfo.
fn refused(table: &str, source: &Path, wanted: Propagation) -> Option<String> {
    let lines = table.lines().filter_map(parse);
    // Of mounts on each other the last one is what is seen.
    let holding = lines.filter(|(point, _)| source.starts_with(point));
    let (point, tags) = holding.max_by_key(|(point, _)| point.components().count())?;
    let has = |tag: &str| tags.iter().any(|it| it.starts_with(tag));
    let what = match wanted {
        Propagation::Bidirectional if !has("shared:") => "a shared mount",
        Propagation::HostToContainer if !has("shared:") && !has("master:") => {
            "a shared or slave mount"
        }
        _ => return None,
    };
    let (source, point) = (source.display(), point.display());
    Some(format!(
        "path {:?} is mounted on {:?} but it is not {what}",
        source.to_string(),
        point.to_string()
    ))
}

/// Mount point and optional fields of a line.
fn parse(line: &str) -> Option<(PathBuf, Vec<&str>)> {
    let mut words = line.split(' ').skip(4);
    let point = words.next()?.replace("\\040", " ");
    let tags = words.skip(1).take_while(|word| *word != "-").collect();
    Some((point.into(), tags))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_where_a_volume_lies_must_be_shared() {
        let table = "22 1 0:21 / / rw - ext4 x rw\n\
                     23 22 0:22 / /shared rw,relatime shared:7 - tmpfs x rw\n\
                     24 22 0:23 / /a\\040slave rw master:7 - tmpfs x rw\n\
                     25 23 0:24 / /shared/own rw - tmpfs x rw\n";
        for (path, both, one) in [
            ("/plain", true, true),
            ("/shared", false, false),
            ("/shared/deep/er", false, false),
            ("/shared/own/x", true, true),
            ("/a slave/x", true, false),
        ] {
            let refused = |wanted| refused(table, Path::new(path), wanted).is_some();
            assert_eq!(refused(Propagation::Bidirectional), both, "{path}");
            assert_eq!(refused(Propagation::HostToContainer), one, "{path}");
            assert!(!refused(Propagation::None), "{path}");
        }
        let why = refused(table, Path::new("/plain"), Propagation::Bidirectional);
        assert_eq!(
            why.as_deref(),
            Some("path \"/plain\" is mounted on \"/\" but it is not a shared mount")
        );
    }
}
