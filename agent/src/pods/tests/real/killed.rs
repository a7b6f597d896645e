//! The agent is killed at every step of a real pod's start and of its end: the next one finds the pod as asked, running
//! and never started twice, or removes every trace of it.

use std::time::Duration;

use super::*;
use crate::pods::machine::mortal::{Death, Fate, Mortal};

/// More steps than this pod has.
const MOST_STEPS: u32 = 40;
const LONG: Duration = Duration::from_secs(240);

fn asked(uid: &str) -> Pod {
    pod(
        uid,
        serde_json::json!({
            "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}],
            "containers": [{
                "name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
                "command": ["/bin/sh", "-c",
                    "trap 'exit 0' TERM; echo started >> /memory/starts; sleep 1000 & wait"],
                "volumeMounts": [{"name": "memory", "mountPath": "/memory"}],
            }],
        }),
    )
}

/// A new agent, which knows nothing but what is on the disk.
async fn begin(node: &Node, fate: &Arc<Fate>) -> Pods<Mortal<NodeMachine>> {
    let machine = Mortal {
        machine: node.another_machine().await,
        fate: Arc::clone(fate),
    };
    let context = context(
        Arc::new(machine),
        &node.recorder,
        &node.objects,
        node.settings.clone(),
    );
    Pods::open(context).await.unwrap()
}

async fn until(fate: &Fate, far_enough: impl Fn() -> bool) {
    while !far_enough() && !fate.has_struck() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One pod from its start to its end. Returns whether the agent died.
async fn lives(node: &Node, number: u32, death: Death, ending: bool) -> bool {
    let uid = format!("uid-{number}");
    let asked = asked(&uid);
    let fate = Arc::new(Fate::default());
    let ready = || node.recorder.statuses(&uid).last().is_some_and(is_ready);
    let gone = || node.recorder.is_terminated(&uid);
    let mut pods = begin(node, &fate).await;
    fate.set((!ending).then_some(death));
    pods.set(asked.clone()).await;
    until(&fate, ready).await;
    let mut died = fate.has_struck();
    if died {
        pods.kill();
        fate.set(None);
        pods = begin(node, &fate).await;
        pods.set(asked.clone()).await;
    }
    let status = node.recorder.status_when(&uid, "ready", is_ready).await;
    let status = container(&status, "main");
    assert_eq!(status.restart_count, 0, "{death:?}");
    let snapshot = pods.find("default", "p").unwrap();
    let starts = snapshot.dirs.volumes().join("memory/starts");
    // It writes as soon as it runs.
    while !std::fs::read_to_string(&starts).is_ok_and(|text| text.ends_with('\n')) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let starts = std::fs::read_to_string(&starts).unwrap();
    assert_eq!(starts, "started\n", "{death:?}");

    fate.set(ending.then_some(death));
    pods.set(deleted(&asked, 5)).await;
    if ending {
        until(&fate, gone).await;
        died = fate.has_struck();
        if died {
            pods.kill();
            fate.set(None);
            pods = begin(node, &fate).await;
            pods.set(deleted(&asked, 5)).await;
        }
    }
    node.recorder.terminated_when(&uid).await;
    pods.end_all(Duration::ZERO, Duration::from_secs(5)).await;
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    assert!(!mounts.contains(&uid), "{death:?}: {mounts}");
    died
}

#[test]
fn a_real_pod_survives_the_death_of_the_agent_at_every_step() {
    on_a_node(LONG, async |node| {
        let mut number = 0;
        for ending in [false, true] {
            let mut step = 0;
            loop {
                (step, number) = (step + 1, number + 2);
                if !lives(&node, number, Death::Before(step), ending).await {
                    break;
                }
                assert!(lives(&node, number + 1, Death::After(step), ending).await);
                assert!(step < MOST_STEPS, "the walk has no end");
            }
            assert!(step > 4, "only {step} steps");
        }
        assert!(lives(&node, 1, Death::WhileStarting, false).await);
        node.assert_clean().await;
    });
}
