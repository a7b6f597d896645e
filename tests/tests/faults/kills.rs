//! Members that die and are stopped.

use std::time::{Duration, Instant};

use waggle_tests::{Members, Witness};

/// Writers, and as many readers.
const CLIENTS: usize = 6;
/// Far more than an election takes, on a machine with other things to do as well.
const GAP: Duration = Duration::from_secs(20);

#[test]
fn no_acknowledged_write_is_lost_when_members_are_killed() {
    let mut members = Members::start(3);
    let witness = Witness::start(&members, &[1, 2, 3], CLIENTS);
    witness.await_progress(50);
    let mut gaps = Vec::new();
    for round in 0..super::rounds(2) {
        let leader = members.leader();
        let victim = match round % 3 {
            // Every third is a follower.
            2 => (1..=3).find(|member| *member != leader).unwrap(),
            _ => leader,
        };
        let killed = Instant::now();
        members.kill(victim);
        witness.await_progress(50);
        if victim == leader {
            let gap = witness.longest_gap(killed);
            assert!(gap < GAP, "no write for {gap:?} after the leader's death");
            gaps.push(gap);
        }
        members.boot(victim, &[]);
        members.await_api(victim);
        witness.await_progress(20);
    }
    // All at once: nobody's memory has it any more.
    for member in 1..=3 {
        members.kill(member);
    }
    for member in 1..=3 {
        members.boot(member, &[]);
    }
    for member in 1..=3 {
        members.await_api(member);
    }
    witness.await_progress(20);
    let verdict = witness.finish(&members);
    gaps.sort_unstable();
    let (median, worst) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    eprintln!(
        "{} leaders killed: the longest gap in acknowledged writes was {median:.2?} in the median, {worst:.2?} at worst",
        gaps.len()
    );
    assert!(verdict.resumed > 0 && verdict.acknowledged > 100);
}

#[test]
fn a_leader_that_is_stopped_hands_over() {
    let mut members = Members::start(3);
    let witness = Witness::start(&members, &[1, 2, 3], CLIENTS);
    let mut gaps = Vec::new();
    let mut handed = 0;
    for _ in 0..super::rounds(2) {
        witness.await_progress(50);
        let leader = members.leader();
        let before = members.log(leader).len();
        let stopped = Instant::now();
        members.stop(leader);
        let said = members.log(leader).split_off(before);
        handed += usize::from(said.contains("another member leads from now on"));
        witness.await_progress(50);
        gaps.push(witness.longest_gap(stopped));
        members.boot(leader, &[]);
        members.await_api(leader);
    }
    witness.finish(&members);
    gaps.sort_unstable();
    eprintln!("leaders stopped: {handed} handed over, the longest gaps were {gaps:.2?}");
    // A machine with much else to do may elect another one by itself, just before.
    assert!(handed > 0);
    assert!(gaps[gaps.len() - 1] < GAP);
}
