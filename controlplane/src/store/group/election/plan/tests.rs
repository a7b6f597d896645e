//! When a member asks the others, and when it calls an election.
use openraft::testing::log_id;

use super::*;

/// Member 2 of three, that has followed member 1 and heard nothing of it for so many milliseconds.
fn quiet_for(ms: u64) -> Standing {
    Standing {
        own: 2,
        role: Role::Votes,
        allegiance: Allegiance::Leader(1),
        quiet: Duration::from_millis(ms),
        last: Some(log_id(4, 1, 70)),
        voters: vec![BTreeSet::from([1, 2, 3])],
    }
}

fn verdict(standing: &Standing, one: Opinion, three: Opinion) -> Verdict {
    standing.verdict(&BTreeMap::from([(1, one), (3, three)]), false)
}

#[test]
fn who_hears_the_leader_asks_nobody() {
    let due = quiet_for(0).due();
    assert!(due > LEASE && due < SILENCE, "{due:?}");
    let alone = Standing {
        voters: vec![BTreeSet::from([2])],
        ..quiet_for(0)
    };
    assert_eq!(alone.due(), Duration::ZERO);
    assert_eq!(alone.verdict(&BTreeMap::new(), false), Verdict::Elect);
}

#[test]
fn two_whose_election_failed_do_not_ask_at_the_same_time() {
    let candidate = |own| Standing {
        own,
        allegiance: Allegiance::Candidate,
        ..quiet_for(0)
    };
    assert!(candidate(2).due() > VOTING);
    assert_eq!(candidate(3).due() - candidate(2).due(), STAGGER);
}

#[test]
fn a_dead_leader_is_replaced_sooner_than_one_that_is_silent() {
    use Opinion::*;
    // Its address refuses: it is dead. A majority of the rest decides.
    assert_eq!(verdict(&quiet_for(560), Gone, Agrees), Verdict::Elect);
    assert_eq!(verdict(&quiet_for(560), Gone, Declines), Verdict::Wait);
    assert_eq!(verdict(&quiet_for(560), Silent, Agrees), Verdict::Wait);
    assert_eq!(verdict(&quiet_for(760), Silent, Agrees), Verdict::Elect);
    // It has come back, and does not lead any more.
    assert_eq!(verdict(&quiet_for(560), Agrees, Silent), Verdict::Elect);
}

#[test]
fn a_leader_that_answers_gets_more_time_but_not_for_ever() {
    use Opinion::*;
    assert_eq!(verdict(&quiet_for(1_400), Leads, Agrees), Verdict::Wait);
    assert_eq!(verdict(&quiet_for(1_600), Leads, Agrees), Verdict::Elect);
    // Whoever it is.
    assert_eq!(verdict(&quiet_for(1_200), Gone, Leads), Verdict::Wait);
}

#[test]
fn without_a_majority_there_is_no_election_however_long_it_takes() {
    use Opinion::*;
    for opinion in [Silent, Gone, Declines, Leads] {
        let standing = quiet_for(1_000_000);
        assert_eq!(verdict(&standing, opinion, opinion), Verdict::Wait);
    }
    // While the voters change, a majority of both.
    let changing = Standing {
        voters: vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([2, 4, 5])],
        ..quiet_for(800)
    };
    let mut opinions = BTreeMap::from([(1, Gone), (3, Agrees), (4, Silent), (5, Declines)]);
    assert_eq!(changing.verdict(&opinions, false), Verdict::Wait);
    opinions.insert(5, Agrees);
    assert_eq!(changing.verdict(&opinions, false), Verdict::Elect);
}

#[test]
fn of_two_that_are_as_good_one_goes_first_and_is_not_waited_for_twice() {
    use Opinion::*;
    let standing = quiet_for(800);
    let opinions = BTreeMap::from([(1, Gone), (3, Competes)]);
    assert_eq!(standing.verdict(&opinions, false), Verdict::Defer);
    assert_eq!(standing.verdict(&opinions, true), Verdict::Elect);
}

#[test]
fn who_is_asked_says_what_its_vote_would() {
    let last = |index| Some(log_id(4, 1, index));
    // It hears the leader.
    assert_eq!(quiet_for(100).opinion(3, last(70)), Opinion::Declines);
    assert_eq!(quiet_for(600).opinion(3, last(70)), Opinion::Agrees);
    // Of two with the same log, the one with the greater id; a longer log counts for more.
    assert_eq!(quiet_for(600).opinion(1, last(70)), Opinion::Competes);
    assert_eq!(quiet_for(600).opinion(1, last(71)), Opinion::Agrees);
    assert_eq!(quiet_for(600).opinion(3, last(69)), Opinion::Declines);
    assert_eq!(quiet_for(600).opinion(3, None), Opinion::Declines);
    // It has just voted for somebody.
    let voted = |ms| Standing {
        allegiance: Allegiance::Candidate,
        ..quiet_for(ms)
    };
    assert_eq!(voted(300).opinion(3, last(70)), Opinion::Declines);
    assert_eq!(voted(460).opinion(3, last(70)), Opinion::Agrees);
}
