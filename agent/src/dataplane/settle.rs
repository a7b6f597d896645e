//! The programs of pods become tcx links when no pod has begun or ended for a while: see `attach`.

use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::sync::watch;

use super::{Inner, run};

/// Until the data plane's last handle is gone.
pub(super) async fn settle(inner: Weak<Inner>, mut alive: watch::Receiver<()>) {
    loop {
        let Some(inner) = inner.upgrade() else {
            return;
        };
        let added = Arc::clone(&inner.pod_added);
        let added = added.notified();
        let due = {
            let state = inner.state();
            let since = state.attachments.unsettled_since();
            let quiet = inner.config.settle_after;
            // Later than there are moments is never.
            since
                .filter(|_| !state.ended)
                .and_then(|since| since.checked_add(quiet))
        };
        if due.is_some_and(|due| due <= Instant::now()) {
            run(&inner, |state| {
                if !state.ended {
                    state.attachments.settle_one(&mut state.objects);
                }
            })
            .await;
            continue;
        }
        drop(inner);
        tokio::select! {
            () = added, if due.is_none() => {}
            () = until(due), if due.is_some() => {}
            _ = alive.changed() => return,
        }
    }
}

async fn until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due.into()).await;
    }
}
