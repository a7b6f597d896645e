//! Which files a set of keys gives: `items`, modes, and names that stay inside the volume. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::KeyToPath;

/// A file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    /// Relative, without `..`, not beginning with `..`.
    pub(crate) path: String,
    pub(crate) mode: u32,
    /// Whose it is, where not root's.
    pub(crate) owner: Option<u32>,
    pub(crate) content: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PayloadError {
    #[error("references non-existent key: {0}")]
    NoKey(String),
    #[error("path {0:?} leaves the volume")]
    Path(String),
}

/// Mode of a file when nobody says.
pub(crate) const DEFAULT_MODE: u32 = 0o644;

/// The files for `data`; all keys when there are no items.
pub(crate) fn project(
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    default_mode: Option<i32>,
    optional: bool,
) -> Result<Vec<File>, PayloadError> {
    let default_mode = mode(default_mode).unwrap_or(DEFAULT_MODE);
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return data
            .iter()
            .map(|(key, content)| file(key, default_mode, content.clone()))
            .collect();
    };
    let mut files = Vec::new();
    for item in items {
        match data.get(&item.key) {
            Some(content) => files.push(file(
                &item.path,
                mode(item.mode).unwrap_or(default_mode),
                content.clone(),
            )?),
            None if optional => {}
            None => return Err(PayloadError::NoKey(item.key.clone())),
        }
    }
    Ok(files)
}

/// A file, once its path is known to stay inside.
pub(crate) fn file(path: &str, mode: u32, content: Vec<u8>) -> Result<File, PayloadError> {
    let inside = !path.is_empty()
        && !path.starts_with('/')
        && !path.starts_with("..")
        && path.len() <= 4096
        && !path.contains('\0')
        && path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != ".." && part.len() <= 255);
    if !inside {
        return Err(PayloadError::Path(path.to_owned()));
    }
    Ok(File {
        path: path.to_owned(),
        mode,
        owner: None,
        content,
    })
}

pub(crate) fn mode(mode: Option<i32>) -> Option<u32> {
    mode.and_then(|mode| u32::try_from(mode).ok())
        .map(|mode| mode & 0o7777)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn data() -> BTreeMap<String, Vec<u8>> {
        [
            ("a".to_owned(), b"1".to_vec()),
            ("b".to_owned(), b"2".to_vec()),
        ]
        .into()
    }

    #[test]
    fn items_choose_and_rename() {
        let item = |key: &str, path: &str, mode| KeyToPath {
            key: key.to_owned(),
            path: path.to_owned(),
            mode,
        };
        let all = project(&data(), None, Some(0o600), false).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].mode, 0o600);
        let some = project(&data(), Some(&[item("b", "x/y", Some(0o400))]), None, false).unwrap();
        assert_eq!(some[0].path, "x/y");
        assert_eq!(some[0].mode, 0o400);
        assert_eq!(
            project(&data(), Some(&[item("c", "c", None)]), None, false),
            Err(PayloadError::NoKey("c".to_owned()))
        );
        assert_eq!(
            project(&data(), Some(&[item("c", "c", None)]), None, true),
            Ok(Vec::new())
        );
    }

    proptest! {
        #[test]
        fn accepted_paths_stay_inside(path in "[a./]{0,12}") {
            if let Ok(file) = file(&path, 0o644, Vec::new()) {
                let mut depth = 0i32;
                for part in std::path::Path::new(&file.path).components() {
                    match part {
                        std::path::Component::Normal(_) => depth += 1,
                        _ => prop_assert!(false, "{path}"),
                    }
                }
                prop_assert!(depth > 0);
            }
        }
    }
}
