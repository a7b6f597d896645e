//! A stream that does not keep up.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;

use proto::node::v1::ServiceChange;

use super::super::batch::{Own, Parcel, Shared};
use super::*;
use crate::cache::{Cache, each, informers};
use crate::registry::Change;

fn service(number: u64) -> Change<Service> {
    Change::Applied(Arc::new(Service {
        metadata: ObjectMeta {
            namespace: Some("ns".into()),
            name: Some(format!("s{number}")),
            ..ObjectMeta::default()
        },
        ..Service::default()
    }))
}

fn start(cache: &Cache, shutdown: &CancellationToken) -> hub::Handle {
    let (applied, metrics) = (Applied::default(), SyncMetrics::default());
    hub::start(cache, &applied, Limits::default(), &metrics, shutdown)
}

async fn next(stream: &mut hub::Batches) -> Batch {
    decoded(&stream.next().await.unwrap().parts.concat())
}

/// One change in every informer's view, as the feed would make it.
fn advance(cache: &Cache, changes: Vec<Change<Service>>, revision: u64) {
    cache.services.apply(changes, revision);
    informers!(each cache, informer => informer.apply(vec![], revision));
    cache.announce();
}

#[tokio::test]
async fn a_slow_stream_is_resynced_and_ends_with_the_same_state() {
    const CHANGES: u64 = 500;
    let cache = Cache::empty();
    let shutdown = CancellationToken::new();
    let hub = start(&cache, &shutdown);
    let mut slow = hub.connect("slow").await.unwrap();
    let mut quick = hub.connect("quick").await.unwrap();
    let mut last = 0;
    for number in 1..=CHANGES {
        advance(&cache, vec![service(number)], number);
        // The quick one has every change before the next is made.
        while last < number {
            let batch = next(&mut quick).await;
            assert!(batch.revision >= last);
            last = batch.revision;
        }
    }
    let mut known = std::collections::BTreeSet::new();
    let mut batches = 0;
    let mut in_full = false;
    let mut revision = 0;
    while revision < CHANGES {
        let batch = next(&mut slow).await;
        batches += 1;
        if batch.full && !in_full {
            known.clear();
        }
        in_full = batch.full && !batch.last;
        known.extend(batch.services.into_iter().map(|change| change.name));
        revision = batch.revision.max(revision);
    }
    assert_eq!(known.len(), 500);
    assert!(
        batches < CHANGES / 2,
        "{batches} batches were kept for a slow stream"
    );
    shutdown.cancel();
}

/// Thousands of nodes share a processor with the rest: what changes again before they can take it is sent once.
#[tokio::test(start_paused = true)]
async fn changes_gather_while_most_of_many_streams_are_busy() {
    const NODES: usize = 100;
    const CHANGES: u64 = 50;
    let cache = Cache::empty();
    let shutdown = CancellationToken::new();
    let hub = start(&cache, &shutdown);
    let mut streams = Vec::new();
    for number in 0..NODES {
        streams.push(hub.connect(&format!("n{number}")).await.unwrap());
    }
    for number in 1..=CHANGES {
        advance(&cache, vec![service(number % 3)], number);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for stream in &mut streams {
        let mut batches = 0;
        while next(stream).await.revision < CHANGES {
            batches += 1;
        }
        assert!(batches <= 2, "{batches} batches");
    }
    shutdown.cancel();
}

/// Telling all of many nodes of every change as soon as they have taken the last one would leave no time for anything else.
#[tokio::test(start_paused = true)]
async fn all_are_told_again_after_as_long_as_it_took() {
    const NODES: usize = 100;
    let cache = Cache::empty();
    let shutdown = CancellationToken::new();
    let hub = start(&cache, &shutdown);
    let mut streams = Vec::new();
    for number in 0..NODES {
        let mut stream = hub.connect(&format!("n{number}")).await.unwrap();
        assert!(next(&mut stream).await.full);
        streams.push(stream);
    }
    let began = tokio::time::Instant::now();
    advance(&cache, vec![service(1)], 1);
    tokio::time::sleep(Duration::from_millis(300)).await;
    for stream in &mut streams {
        assert_eq!(next(stream).await.revision, 1);
    }
    advance(&cache, vec![service(2)], 2);
    assert_eq!(next(&mut streams[0]).await.revision, 2);
    let waited = began.elapsed().as_millis();
    assert!((600..=620).contains(&waited), "after {waited} ms");
    // After that long a rest nothing waits.
    for stream in &mut streams[1..] {
        assert_eq!(next(stream).await.revision, 2);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let began = tokio::time::Instant::now();
    advance(&cache, vec![service(3)], 3);
    assert_eq!(next(&mut streams[0]).await.revision, 3);
    assert_eq!(began.elapsed(), Duration::ZERO);
    shutdown.cancel();
}

#[tokio::test]
async fn a_batch_claims_no_revision_before_all_of_it_is_there() {
    let cache = Cache::empty();
    let shutdown = CancellationToken::new();
    let hub = start(&cache, &shutdown);
    let mut stream = hub.connect("n1").await.unwrap();
    assert!(next(&mut stream).await.last);
    // More than one message holds, at one revision.
    advance(&cache, (0..450).map(service).collect(), 7);
    let mut services = 0;
    loop {
        let batch = next(&mut stream).await;
        services += batch.services.len();
        if batch.last {
            assert_eq!(batch.revision, 7);
            break;
        }
        assert!(batch.revision < 7);
    }
    assert_eq!(services, 450);
    shutdown.cancel();
}

#[tokio::test]
async fn parts_that_are_encoded_once_make_whole_messages() {
    let services = (0..3).map(|number| ServiceChange {
        name: format!("s{number}"),
        ..ServiceChange::default()
    });
    let shared = Arc::new(Shared::services(services));
    let parcel = |own: Own| Parcel {
        full: true,
        revision: 9,
        since: 4,
        shared: Arc::clone(&shared),
        own,
    };
    let pod = proto::node::v1::PodChange {
        uid: "u".into(),
        ..Default::default()
    };
    let plain = parcel(Own::default()).messages();
    let own = Own {
        pods: vec![pod.clone()],
        objects: Vec::new(),
    };
    let with_pod = parcel(own).messages();
    assert_eq!((plain.len(), with_pod.len()), (1, 2));
    let [one, other] = [&plain[0], &with_pod[0]].map(|message| decoded(&message.parts.concat()));
    assert_eq!(one.services, other.services);
    assert_eq!(one.services.len(), 3);
    assert!(one.last && !other.last);
    assert_eq!((one.revision, other.revision), (9, 4));
    let last = decoded(&with_pod[1].parts.concat());
    assert_eq!((last.pods, last.revision, last.last), (vec![pod], 9, true));
}
