//! The keys that this member's disk is sealed with: a file of its own, `keys` in the store's directory, or wherever a
//! symbolic link of that name leads. The first key seals; others are there until nothing is sealed with them any more.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::disk::DiskError;

pub(super) const FILE: &str = "keys";
pub(super) const KEY_LENGTH: usize = 32;

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) id: u32,
    /// Base64.
    secret: String,
}

/// What the file says.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Keyring {
    pub(super) keys: Vec<Key>,
    /// There may be values from before there were keys.
    #[serde(default)]
    pub(super) plain: bool,
    /// How often the cluster has asked for another key, as far as this member has followed.
    #[serde(default)]
    pub(super) generation: u64,
}

impl Key {
    pub(super) fn secret(&self) -> Option<[u8; KEY_LENGTH]> {
        STANDARD.decode(&self.secret).ok()?.try_into().ok()
    }

    fn random(id: u32) -> Self {
        let mut secret = [0; KEY_LENGTH];
        rand::Rng::fill(&mut rand::rng(), &mut secret);
        Self {
            id,
            secret: STANDARD.encode(secret),
        }
    }
}

impl Keyring {
    /// A first key; `plain` where the disk is in use already.
    pub(super) fn first(plain: bool) -> Self {
        Self {
            keys: vec![Key::random(1)],
            plain,
            generation: 0,
        }
    }

    /// `None` where there is no file.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, DiskError> {
        let corrupt = |why: String| DiskError::Corrupt(format!("{}: {why}", path.display()));
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(DiskError::Io(format!("{}: {error}", path.display()))),
        };
        let ring: Self =
            serde_json::from_slice(&text).map_err(|error| corrupt(error.to_string()))?;
        if ring.keys.is_empty() || ring.keys.iter().any(|key| key.secret().is_none()) {
            return Err(corrupt("it has no usable key".to_owned()));
        }
        Ok(Some(ring))
    }

    /// Beside, synced, renamed: a crash leaves the old or the new keys.
    pub(super) fn write(&self, path: &Path) -> Result<(), DiskError> {
        let io = |error: std::io::Error| DiskError::Io(format!("{}: {error}", path.display()));
        let target: PathBuf = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let beside = target.with_extension("new");
        let text = serde_json::to_vec_pretty(self).expect("texts and numbers always serialize");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)
            .map_err(io)?;
        file.write_all(&text)
            .and_then(|()| file.sync_all())
            .and_then(|()| std::fs::rename(&beside, &target))
            .map_err(io)?;
        match target.parent() {
            Some(dir) => std::fs::File::open(dir)
                .and_then(|dir| dir.sync_all())
                .map_err(io),
            None => Ok(()),
        }
    }

    /// Another key in front.
    pub(super) fn rotated(&self) -> Self {
        let next = self.keys.iter().map(|key| key.id).max().unwrap_or(0) + 1;
        let mut keys = vec![Key::random(next)];
        keys.extend(self.keys.iter().cloned());
        Self {
            keys,
            plain: self.plain,
            generation: self.generation,
        }
    }

    /// Only the key that seals, once everything is sealed with it.
    pub(super) fn settled(&self) -> Self {
        Self {
            keys: self.keys.iter().take(1).cloned().collect(),
            plain: false,
            generation: self.generation,
        }
    }
}
