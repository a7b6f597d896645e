//! Several nodes on one machine: a table of what must be seen of pods' networks and of Services, gone through in
//! each mode of the data plane, and the life of a lab itself.
//!
//! `WAGGLE_LAB_ROWS=text` goes through those rows alone whose name contains the text.
#![allow(clippy::unwrap_used)]

mod call;
mod change_table;
mod going;
mod lifecycle;
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
fn routed_natively_with_xdp() {
    go_through(Mode {
        routing: Routing::Native,
        north_south: NorthSouth::Snat,
        xdp: true,
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
