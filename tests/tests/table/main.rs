//! A table of what must be seen of pods' networks and of Services, gone through on three nodes in each mode of the data
//! plane. `cargo xtask test --table` runs it: some minutes, on a machine that does nothing else.
//!
//! `WAGGLE_LAB_ROWS=text` goes through those rows alone whose name contains the text.
#![allow(clippy::unwrap_used)]

mod call;
mod change_table;
mod going;
mod network_table;
mod services_more;
mod services_table;
mod world;

use world::{Mode, NorthSouth, Routing, go_through};

#[test]
fn over_the_overlay_with_snat() {
    go_through(Mode {
        routing: Routing::Overlay,
        north_south: NorthSouth::Snat,
        xdp: false,
    });
}

#[test]
fn routed_natively() {
    go_through(Mode {
        routing: Routing::Native,
        north_south: NorthSouth::Snat,
        xdp: false,
    });
}

#[test]
fn over_the_overlay_with_dsr() {
    go_through(Mode {
        routing: Routing::Overlay,
        north_south: NorthSouth::Dsr,
        xdp: false,
    });
}
