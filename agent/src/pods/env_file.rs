//! Variables out of a file that another container of the pod has written to an `emptyDir`: `NAME='value'` per line, the
//! value between single quotes as it is, over several lines where it has such. `#` begins a comment.
//!
//! The file is whatever that container made it: it is opened without following anything out of its volume.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use k8s_openapi::api::core::v1::{FileKeySelector, Pod};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::environment::ConfigError;

/// What a file may have at most, as with the kubelet.
const MAX_FILE: u64 = 64 << 10;

/// The value of the key; `None` when it is optional and not there.
pub(super) fn value(
    pod: &Pod,
    volumes: &Path,
    reference: &FileKeySelector,
) -> Result<Option<String>, ConfigError> {
    let volume = &reference.volume_name;
    let spec = pod.spec.as_ref();
    let mut known = spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
        .filter(|known| known.name == *volume);
    let failed = |why: String| ConfigError::Field(why);
    let found = known.next().ok_or_else(|| {
        failed(format!(
            "cannot find the volume {volume:?} referenced by FileKeyRef"
        ))
    })?;
    if found.empty_dir.is_none() {
        let why = format!("the volume {volume:?} referenced by FileKeyRef is no emptyDir");
        return Err(failed(why));
    }
    let optional = reference.optional == Some(true);
    let path = &reference.path;
    let text = match read(&volumes.join(volume), path) {
        Ok(text) => text,
        Err(error) if optional && error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(format!("couldn't read env file {path:?}: {error}"))),
    };
    let variables = parse(&text).map_err(|(line, why)| {
        failed(format!(
            "couldn't parse env file {path:?}: line {line}: {why}"
        ))
    })?;
    // As with all variables, the last one counts.
    let mut all = variables.into_iter().rev();
    match all.find(|(name, _)| *name == reference.key) {
        Some((_, value)) => Ok(Some(value.to_owned())),
        None if optional => Ok(None),
        None => Err(failed(format!(
            "environment variable key {:?} not found in file {path:?}",
            reference.key
        ))),
    }
}

fn read(volume: &Path, path: &str) -> std::io::Result<String> {
    let volume = File::open(volume)?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = openat2(volume.as_fd(), path, how).map_err(|error| match error {
        Errno::EXDEV => std::io::Error::other("it leads out of its volume"),
        error => error.into(),
    })?;
    let file = File::from(file);
    let facts = file.metadata()?;
    if !facts.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(std::io::Error::other("it has more than 64 KiB"));
    }
    Ok(text)
}

/// Name and value in their order, or the line with what is wrong in it.
fn parse(text: &str) -> Result<Vec<(&str, &str)>, (usize, &'static str)> {
    let mut variables = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let line = text[..text.len() - rest.len()].matches('\n').count() + 1;
        let end = rest.find('\n').unwrap_or(rest.len());
        if rest.is_empty() {
            return Ok(variables);
        }
        if rest.starts_with('#') {
            rest = &rest[end..];
            continue;
        }
        let (name, after) = rest[..end]
            .split_once('=')
            .map(|(name, _)| (name, &rest[name.len() + 1..]))
            .ok_or((line, "expected NAME='value'"))?;
        if name.is_empty() || name.contains(|c: char| !c.is_ascii_graphic() || c == '\'') {
            return Err((line, "invalid name"));
        }
        let quoted = after.strip_prefix('\'');
        let (value, after) = quoted
            .ok_or((line, "the value must be in single quotes"))?
            .split_once('\'')
            .ok_or((line, "the value does not end"))?;
        let end = after.find('\n').unwrap_or(after.len());
        let tail = after[..end].trim();
        if !tail.is_empty() && !tail.starts_with('#') {
            return Err((line, "something comes after the value"));
        }
        variables.push((name, value));
        rest = &after[end..];
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn variables_of_a_file() {
        let text = "# first\n\n A='1' # one\nLONG='two\nlines # $(A) \"x\"'\r\nEMPTY=''\nA='3'";
        let expected = [
            ("A", "1"),
            ("LONG", "two\nlines # $(A) \"x\""),
            ("EMPTY", ""),
            ("A", "3"),
        ];
        assert_eq!(parse(text).unwrap(), expected);
        for (wrong, line) in [
            ("A", 1),
            ("A=1", 1),
            ("\nA='1", 2),
            ("A='1\n2'\nB='1''2'", 3),
            ("A B='1'", 1),
            ("='1'", 1),
        ] {
            assert_eq!(parse(wrong).unwrap_err().0, line, "{wrong:?}");
        }
    }

    #[test]
    fn only_files_of_an_empty_dir_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = dir.path();
        std::fs::create_dir(volumes.join("e")).unwrap();
        std::fs::write(volumes.join("e/env"), "A='1'\nB='2'\nA='3'\n").unwrap();
        std::os::unix::fs::symlink("/etc/hostname", volumes.join("e/out")).unwrap();
        std::fs::write(volumes.join("e/large"), vec![b'#'; (64 << 10) + 1]).unwrap();
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": [],
            "volumes": [{"name": "e", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/etc"}}]}}))
        .unwrap();
        let of = |volume: &str, path: &str, key: &str, optional: bool| {
            let reference = FileKeySelector {
                volume_name: volume.to_owned(),
                path: path.to_owned(),
                key: key.to_owned(),
                optional: Some(optional),
            };
            value(&pod, volumes, &reference)
        };
        assert_eq!(of("e", "env", "A", false), Ok(Some("3".to_owned())));
        assert_eq!(of("e", "env", "C", true), Ok(None));
        assert_eq!(of("e", "none", "A", true), Ok(None));
        for (volume, path, key, why) in [
            ("e", "env", "C", "not found in file"),
            ("e", "none", "A", "couldn't read"),
            ("e", "out", "A", "out of its volume"),
            ("e", ".", "A", "no regular file"),
            ("e", "large", "A", "64 KiB"),
            ("h", "hostname", "A", "no emptyDir"),
            ("x", "env", "A", "cannot find"),
        ] {
            let error = of(volume, path, key, false).unwrap_err().to_string();
            assert!(error.contains(why), "{volume} {path}: {error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[A='#\n é]{0,40}") {
            let _ = parse(&text);
        }
    }
}
