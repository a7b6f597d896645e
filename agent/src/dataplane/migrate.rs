//! From the maps of an older layout to this one's, while the programs of the older one go on working.
//!
//! ```text
//!   prepare    maps that are the same in both layouts are pinned under this one too
//!   fill       the others are converted, entry by entry, before any program that reads them is attached
//!   finish     once all programs are replaced: what the old ones entered meanwhile; then their pins go
//! ```
//! Nothing of the older layout is changed, so an agent that is killed in between, or that cannot load its programs,
//! leaves it in force, and the next one begins again. What a layout was is frozen in a file of its own (`layout1`).
//!
//! A newer layout is not known: after a step back to an older binary its maps start empty, and fill with the first full
//! state of the cluster. Sockets stay connected; `getpeername` shows backends until they are connected anew.

pub(in crate::dataplane) mod layout1;
#[cfg(feature = "next-layout")]
mod layout2;

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use agent_ebpf::layout::LAYOUT;
use aya::maps::{HashMap, Map, MapData, MapError, MapInfo};

use super::error::DataPlaneError;
use super::objects::{SHAPES, Shape, map_directory};
use super::syscall::{link_program, object_get, object_pin};
use super::wire::Wire;

/// Adds an entry only if there is none with its key.
const IF_NEW: u64 = 1;

/// An older layout.
struct Older {
    number: u32,
    /// Maps that are as they were, in shape and in meaning.
    same: &'static [&'static str],
    /// Converts the others, both found below their directories.
    convert: fn(&Path, &Path) -> Result<(), MapError>,
}

/// Newest first.
const OLDER: &[Older] = &[
    #[cfg(feature = "next-layout")]
    layout2::OLDER,
    layout1::OLDER,
];

/// A change of layout under way, or none.
#[must_use]
pub(crate) struct Migration {
    pin_dir: PathBuf,
    from: Option<&'static Older>,
}

impl Migration {
    pub(crate) fn is_under_way(&self) -> bool {
        self.from.is_some()
    }

    /// Before the maps are made.
    pub(crate) fn prepare(pin_dir: &Path) -> Result<Self, DataPlaneError> {
        let older = |older: &&Older| directory(pin_dir, older.number).is_dir();
        let from = OLDER.iter().find(older);
        let new = map_directory(pin_dir);
        if let Some(from) = from
            && !is_in_force(&new, &pin_dir.join("links"))
        {
            let old = directory(pin_dir, from.number);
            tracing::info!(
                from = from.number,
                to = LAYOUT,
                "eBPF maps change their layout"
            );
            // Of a load that did not get to its end, or of before a step back to the older binary.
            unpin_all(&new);
            std::fs::create_dir_all(&new).map_err(DataPlaneError::file("create", &new))?;
            for name in from.same {
                if let Err(error) = share(name, &old, &new) {
                    tracing::warn!(map = name, %error, "pinned map of an older layout is not taken over");
                }
            }
        }
        Ok(Self {
            pin_dir: pin_dir.to_owned(),
            from,
        })
    }

    /// Once the maps are there, before programs that use them are attached.
    pub(crate) fn fill(&self) {
        let Some(from) = self.from else { return };
        let old = directory(&self.pin_dir, from.number);
        if let Err(error) = (from.convert)(&old, &map_directory(&self.pin_dir)) {
            tracing::warn!(%error, layout = from.number, "maps of an older layout cannot be read: begun without");
        }
    }

    /// Once all programs are replaced.
    pub(crate) fn finish(&self) {
        self.fill();
        for entry in std::fs::read_dir(&self.pin_dir)
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            let number = name.strip_prefix('v').and_then(|text| text.parse().ok());
            if number.is_some_and(|number: u32| number != LAYOUT) {
                unpin_all(&entry.path());
                if let Err(error) = std::fs::remove_dir(entry.path()) {
                    tracing::warn!(path = %entry.path().display(), %error, "cannot remove another layout's pins");
                }
            }
        }
    }
}

fn directory(pin_dir: &Path, number: u32) -> PathBuf {
    pin_dir.join(format!("v{number}"))
}

fn unpin_all(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if let Err(error) = std::fs::remove_file(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "cannot unpin");
        }
    }
}

/// Whether an attached program uses the configuration that is pinned in `maps`.
fn is_in_force(maps: &Path, links: &Path) -> bool {
    let Ok(config) = MapInfo::from_pin(maps.join("CONFIG")) else {
        return false;
    };
    let entries = std::fs::read_dir(links).into_iter().flatten().flatten();
    let attached: Vec<u32> = entries
        .filter_map(|entry| link_program(object_get(&entry.path()).ok()?.as_fd()).ok())
        .collect();
    aya::programs::loaded_programs().flatten().any(|program| {
        attached.contains(&program.id())
            && matches!(program.map_ids(), Ok(Some(maps)) if maps.contains(&config.id()))
    })
}

/// Pins an older layout's map under this one, if it is what it should be.
fn share(name: &str, old: &Path, new: &Path) -> io::Result<()> {
    let shape = SHAPES.iter().find(|shape| shape.name == name);
    let fits =
        |shape: &Shape| MapInfo::from_pin(old.join(name)).is_ok_and(|info| shape.fits(&info));
    if !shape.is_some_and(fits) {
        return Err(io::Error::other("it is of another kind or size"));
    }
    let map = object_get(&old.join(name))?;
    object_pin(map.as_fd(), &new.join(name))
}

/// A pinned hash map of a known shape.
fn table<K, V>(directory: &Path, name: &str) -> Result<HashMap<MapData, Wire<K>, Wire<V>>, MapError>
where
    Wire<K>: aya::Pod,
    Wire<V>: aya::Pod,
{
    Map::from_map_data(MapData::from_pin(directory.join(name))?)?.try_into()
}

/// Adds an entry; what is there already is newer.
fn add<K, V>(
    table: &mut HashMap<MapData, Wire<K>, Wire<V>>,
    key: K,
    value: V,
) -> Result<(), MapError>
where
    Wire<K>: aya::Pod,
    Wire<V>: aya::Pod,
{
    match table.insert(Wire(key), Wire(value), IF_NEW) {
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == io::ErrorKind::AlreadyExists =>
        {
            Ok(())
        }
        result => result,
    }
}
