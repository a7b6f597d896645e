//! The program that stands between the agent and each pod's containers (`agent-supervisor`): embedded here, and put where
//! it can be started.
//!
//! Deliberately not here: starting it, and talking to it; that is `runtime`.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub(crate) use agent_supervisor::{
    attachment, cgroup, config, console, copied, logfile, protocol, record, runc,
};

static PROGRAM: &[u8] = include_bytes!(env!("WAGGLE_SUPERVISOR"));

const NAME: &str = "waggle-supervisor";

/// Puts the program into a directory of the agent's own and returns its path. Supervisors that run already, perhaps of
/// another version, keep what they were started from.
pub(crate) fn install(dir: &Path) -> io::Result<PathBuf> {
    let path = dir.join(NAME);
    if std::fs::read(&path).is_ok_and(|there| there == PROGRAM) {
        return Ok(path);
    }
    let new = dir.join(format!(".{NAME}.new"));
    // One that was cut short by a crash may be there: its mode counts only for a new file.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o755)
        .open(&new)?;
    file.write_all(PROGRAM)?;
    // A program that is open for writing cannot be started.
    drop(file);
    std::fs::rename(&new, &path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_there_is_replaced_unless_it_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(format!(".{NAME}.new")), "cut short").unwrap();
        let path = install(dir.path()).unwrap();
        let made = path.metadata().unwrap();
        assert_eq!(made.permissions().mode() & 0o777, 0o755);
        assert_eq!(install(dir.path()).unwrap(), path);
        let modified = |path: &Path| path.metadata().unwrap().modified().unwrap();
        assert_eq!(modified(&path), made.modified().unwrap());

        std::fs::write(&path, "of another version").unwrap();
        install(dir.path()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), PROGRAM);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// What it is for: a process of few pages. A program that needs libraries is linked when it starts, page by page.
    #[test]
    fn the_program_is_small_and_needs_no_library() {
        assert!(PROGRAM.len() < 2 << 20, "{} bytes", PROGRAM.len());
        let loader = b"/ld-linux";
        let needs = PROGRAM.windows(loader.len()).any(|at| at == loader);
        assert!(!needs, "it is linked dynamically");
    }
}
