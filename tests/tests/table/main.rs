//! A table of what must be seen of pods' networks and of Services, gone through on three nodes in each mode of the data
//! plane. `cargo xtask test --table` runs it: some minutes, on a machine that does nothing else.
//!
//! `WAGGLE_LAB_ROWS=text` goes through those rows alone whose name contains the text.
#![allow(clippy::unwrap_used)]

mod addresses_table;
mod call;
mod change_table;
mod endpoints_table;
mod going;
mod names_table;
mod network_table;
mod services_more;
mod services_table;
mod world;

use world::{Mode, NorthSouth, Routing, go_through};

/// As nobody asks for anything else.
const MODE: Mode = Mode {
    routing: Routing::Overlay,
    north_south: NorthSouth::Snat,
    xdp: false,
    families: "dual",
    mtu: 1500,
};

#[test]
fn over_the_overlay_with_snat() {
    go_through(MODE);
}

#[test]
fn routed_natively() {
    go_through(Mode {
        routing: Routing::Native,
        ..MODE
    });
}

#[test]
fn routed_natively_with_xdp() {
    go_through(Mode {
        routing: Routing::Native,
        xdp: true,
        ..MODE
    });
}

#[test]
fn over_the_overlay_with_dsr() {
    go_through(Mode {
        north_south: NorthSouth::Dsr,
        ..MODE
    });
}

#[test]
fn routed_natively_with_dsr() {
    go_through(Mode {
        routing: Routing::Native,
        north_south: NorthSouth::Dsr,
        ..MODE
    });
}

#[test]
fn with_ipv4_alone() {
    go_through(Mode {
        families: "v4",
        ..MODE
    });
}

#[test]
fn with_ipv6_alone() {
    go_through(Mode {
        families: "v6",
        ..MODE
    });
}

#[test]
fn with_jumbo_frames() {
    go_through(Mode { mtu: 9000, ..MODE });
}
