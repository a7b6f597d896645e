//! What is done from time to time: idle flows and affinities that are over are forgotten, retired slots given back, the
//! tables counted.

use std::sync::Arc;

use agent_ebpf::layout::MAX_FLOWS;

use super::{Inner, flows, occupancy};

/// Ends with the data plane's last handle.
pub(super) async fn keep_house(inner: std::sync::Weak<Inner>) {
    let mut occupancy = flows::Occupancy::default();
    loop {
        tokio::time::sleep(occupancy.next_look()).await;
        let Some(inner) = inner.upgrade() else {
            return;
        };
        if inner.state().ended {
            return;
        }
        occupancy = sweep(&inner, occupancy).await;
        sweep_affinities(&inner).await;
        let plane = Arc::clone(&inner);
        let tidied = tokio::task::spawn_blocking(move || {
            let mut state = plane.state();
            let state = &mut *state;
            if !state.ended {
                state.tables.tidy(&mut state.objects, &mut state.settings);
                occupancy::count(state);
                occupancy::warn(state);
            }
        });
        // Not to finish is to be shutting down.
        let _ = tidied.await;
    }
}

pub(super) async fn sweep_affinities(inner: &Arc<Inner>) {
    let plane = Arc::clone(inner);
    let swept = tokio::task::spawn_blocking(move || {
        let affinities = Arc::clone(&plane.state().objects.affinities);
        let timeouts = || plane.state().tables.planner().affinities();
        affinities.sweep(flows::now(), timeouts);
    });
    // Not to finish is to be shutting down.
    let _ = swept.await;
}

/// Looks through the table of flows, away from the async threads and without the lock.
async fn sweep(inner: &Inner, before: flows::Occupancy) -> flows::Occupancy {
    let flows = Arc::clone(&inner.state().objects.flows);
    let swept =
        tokio::task::spawn_blocking(move || flows.sweep(flows::now(), before.is_pressed())).await;
    let Ok(occupancy) = swept else {
        return before;
    };
    if occupancy.is_pressed() && !before.is_pressed() {
        tracing::warn!(
            entries = occupancy.entries,
            size = MAX_FLOWS,
            "the table of translated flows is filling: unanswered and ended flows are forgotten sooner"
        );
    }
    inner.state().flows = occupancy.entries;
    occupancy
}
