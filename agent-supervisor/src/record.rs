//! Exit records: how each container ended, one file in its bundle, written before anybody is told. They
//! outlive the supervisor, so that a pod whose supervisor died still has its exit codes.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::config::write_atomically;
use super::protocol::ContainerState;

const FILE: &str = "exit.json";

pub fn write(bundle: &Path, state: &ContainerState) -> io::Result<()> {
    write_atomically(&bundle.join(FILE), &serde_json::to_vec(state)?)
}

pub fn read(bundle: &Path) -> io::Result<Option<ContainerState>> {
    match std::fs::read(bundle.join(FILE)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every container that has a bundle, with its exit record if it has ended.
pub fn read_all(dir: &Path) -> io::Result<BTreeMap<String, Option<ContainerState>>> {
    let entries = match std::fs::read_dir(dir.join("containers")) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let mut records = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        if let Ok(id) = entry.file_name().into_string() {
            // A damaged record is one of a container that ended: it counts as not known how.
            records.insert(id, read(&entry.path()).unwrap_or(None));
        }
    }
    Ok(records)
}

/// Removes a bundle's files by name: somebody else's may lie beside them.
pub fn remove_bundle(bundle: &Path) {
    for name in ["config.json", FILE, "init.pid", "runc.log", "console.sock"] {
        // What is not there needs no removal; what cannot be removed keeps the directory visible.
        let _ = std::fs::remove_file(bundle.join(name));
    }
    let _ = std::fs::remove_dir(bundle);
}
