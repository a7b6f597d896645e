//! What is said is what is understood; what makes no sense is refused.
#![allow(clippy::unwrap_used)]

use openraft::testing::log_id;
use prost::Message;

use super::*;
use crate::store::mvcc::Mvcc;
use crate::store::raft::{Command, Entry, Vote};
use crate::store::{Compare, tests::put};

fn through<M: Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

#[test]
fn appends_and_votes_come_back_as_they_were() {
    let entry = Entry {
        log_id: log_id(3, 2, 9),
        payload: openraft::EntryPayload::Normal(Command::Txns(vec![put("a", "1")].into())),
    };
    let append = Append {
        vote: Vote::new_committed(3, 2),
        prev_log_id: Some(log_id(2, 1, 8)),
        leader_commit: None,
        entries: vec![entry],
    };
    let back = append_from_pb(through(&append_to_pb(&append))).unwrap();
    assert_eq!(format!("{back:?}"), format!("{append:?}"));
    for appended in [
        AppendEntriesResponse::Success,
        AppendEntriesResponse::PartialSuccess(None),
        AppendEntriesResponse::PartialSuccess(Some(log_id(1, 1, 1))),
        AppendEntriesResponse::Conflict,
        AppendEntriesResponse::HigherVote(Vote::new(4, 1)),
    ] {
        let back = appended_from_pb(through(&appended_to_pb(&appended))).unwrap();
        assert_eq!(back, appended);
    }
    let vote = VoteRequest {
        vote: Vote::new(5, 3),
        last_log_id: Some(log_id(3, 2, 9)),
    };
    assert_eq!(vote_from_pb(through(&vote_to_pb(&vote))).unwrap(), vote);
    assert!(append_from_pb(pb::AppendRequest::default()).is_err());
    assert!(appended_from_pb(pb::AppendResponse::default()).is_err());
    assert!(vote_from_pb(pb::VoteRequest::default()).is_err());
}

#[test]
fn outcomes_come_back_as_they_were() {
    let mut mvcc = Mvcc::default();
    let mut txn = put("a", "1");
    txn.ops.push(Op::Delete { key: "none".into() });
    txn.compares.push(Compare {
        key: "b".into(),
        mod_revision: 0,
    });
    txn.compares.push(Compare {
        key: "a".into(),
        mod_revision: 0,
    });
    let (committed, _) = mvcc.apply(&txn);
    let (conflict, _) = mvcc.apply(&txn);
    for outcome in [committed, conflict] {
        let back = outcome_from_pb(&txn, through(&outcome_to_pb(&txn, &outcome))).unwrap();
        assert_eq!(format!("{back:?}"), format!("{outcome:?}"));
    }
    let other = put("a", "1");
    let nonsense = outcome_to_pb(
        &other,
        &TxnOutcome::Committed {
            revision: 1,
            written: Vec::new(),
        },
    );
    assert!(outcome_from_pb(&other, nonsense).is_err());
}
