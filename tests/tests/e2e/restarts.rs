//! kill -9 and a new start, under load: nobody who talks through a Service or asks for a name notices.

use waggle_tests::{Cluster, Load};

#[test]
fn kill_9_and_a_new_start_break_no_connection_and_lose_no_answer() {
    let mut cluster = Cluster::start();
    let load = Load::start(&cluster, env!("CARGO_BIN_EXE_waggle-clients"), 1000);
    for _ in 0..3 {
        cluster.crash();
        cluster.boot();
        load.await_name(&cluster);
    }
    load.unharmed();
}
