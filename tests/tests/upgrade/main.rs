//! From one binary to another whose eBPF maps have another layout, under load. `cargo xtask test --upgrade` builds the
//! other one and runs this.

use std::path::PathBuf;

use waggle_tests::{Cluster, Load, Options, waggle};

/// The other binary, and whether it is the older one of the two.
fn other() -> (PathBuf, bool) {
    for (variable, is_older) in [("WAGGLE_UPGRADE_FROM", true), ("WAGGLE_UPGRADE_TO", false)] {
        if let Some(path) = std::env::var_os(variable) {
            return (path.into(), is_older);
        }
    }
    panic!("WAGGLE_UPGRADE_FROM or WAGGLE_UPGRADE_TO names the other binary");
}

/// The directories of maps that are pinned: one for each layout.
fn layouts(cluster: &Cluster) -> Vec<String> {
    let directory = cluster.run_dir().join("bpf");
    let entries = std::fs::read_dir(&directory).expect("the pins");
    let names = entries.flatten().map(|entry| entry.file_name());
    let mut layouts: Vec<String> = names
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| {
            name.strip_prefix('v')
                .is_some_and(|it| it.parse::<u32>().is_ok())
        })
        .collect();
    layouts.sort();
    layouts
}

#[test]
fn an_upgrade_to_maps_of_another_layout_breaks_no_connection_and_loses_no_answer() {
    let (from, to) = match other() {
        (older, true) => (older, waggle()),
        (newer, false) => (waggle(), newer),
    };
    let mut cluster = Cluster::with(Options {
        program: Some(from),
        ..Options::default()
    });
    let load = Load::start(&cluster, env!("CARGO_BIN_EXE_waggle-clients"), 1000);
    let before = layouts(&cluster);
    cluster.replace_program(to);
    cluster.crash();
    cluster.boot();
    load.await_name(&cluster);
    let after = layouts(&cluster);
    assert_eq!((before.len(), after.len()), (1, 1), "{before:?} {after:?}");
    assert_ne!(before, after, "the layout has changed");
    // Once more, with nothing of the old layout left.
    cluster.crash();
    cluster.boot();
    load.await_name(&cluster);
    load.unharmed();
}
