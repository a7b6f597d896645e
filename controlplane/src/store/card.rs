//! Who a member is: a file in the store's directory, beside the data that belongs to it, so that both go
//! together. Whoever finds the directory without it, and without data, may be anybody.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Identity, StoreError, directory};

const FILE: &str = "member";
const FORMAT: u32 = 1;

/// The id of the member that founds a cluster.
pub(crate) const FOUNDER: u64 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Card {
    format: u32,
    pub(crate) id: u64,
    /// The cluster's own name for itself.
    pub(crate) cluster: String,
    /// The change of the members that brought it; 0 for the founder.
    pub(crate) since: u64,
}

impl Card {
    pub(crate) fn new(id: u64, cluster: &str, since: u64) -> Self {
        Self {
            format: FORMAT,
            id,
            cluster: cluster.to_owned(),
            since,
        }
    }

    /// Of the first member of a cluster that does not exist yet.
    pub(crate) fn founder() -> Self {
        Self::new(FOUNDER, &uuid::Uuid::new_v4().to_string(), 0)
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity {
            id: self.id,
            cluster: Arc::from(self.cluster.as_str()),
            since: self.since,
        }
    }

    /// # Errors
    /// When there is one that this version does not understand.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = dir.join(FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(StoreError::Storage(format!("{}: {error}", path.display())));
            }
        };
        let corrupt = |why: String| StoreError::Corrupt(format!("{}: {why}", path.display()));
        let format: Format =
            serde_json::from_slice(&text).map_err(|error| corrupt(error.to_string()))?;
        if format.format != FORMAT {
            return Err(StoreError::Format {
                dir: path,
                found: format.format,
                known: FORMAT,
            });
        }
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| corrupt(error.to_string()))
    }

    pub(crate) fn write(&self, dir: &Path) -> Result<(), StoreError> {
        let text = serde_json::to_vec(self).expect("texts and numbers always serialize");
        directory::create(dir)
            .and_then(|()| directory::write_durably(dir, FILE, &text))
            .map_err(|error| StoreError::Storage(format!("{}: {error}", dir.display())))
    }

    /// That of the directory, made where there is none: for a new cluster, or one whose data is older than
    /// this file.
    pub(crate) fn ensure(dir: &Path) -> Result<Self, StoreError> {
        if let Some(card) = Self::read(dir)? {
            return Ok(card);
        }
        let card = Self::founder();
        card.write(dir)?;
        Ok(card)
    }
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_member_stays_who_it_is_and_refuses_what_it_does_not_know() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("store");
        assert_eq!(Card::read(&dir).unwrap(), None);
        let card = Card::ensure(&dir).unwrap();
        assert_eq!(Card::ensure(&dir).unwrap(), card);
        assert_eq!((card.id, card.since), (FOUNDER, 0));
        std::fs::write(dir.join(FILE), r#"{"format": 2, "other": true}"#).unwrap();
        let error = Card::read(&dir).unwrap_err().to_string();
        assert!(
            error.contains("has format 2, this version knows format 1"),
            "{error}"
        );
        std::fs::write(dir.join(FILE), "nonsense").unwrap();
        assert!(matches!(Card::read(&dir), Err(StoreError::Corrupt(_))));
    }
}
