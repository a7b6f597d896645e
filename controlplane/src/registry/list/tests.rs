//! Tests of `registry::list`.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn options(version: Option<u64>, version_match: VersionMatch, limit: usize) -> ListOptions {
    ListOptions {
        resource_version: version,
        version_match,
        limit,
        ..ListOptions::default()
    }
}

#[test]
fn resource_version_and_match_choose_the_state() {
    use VersionMatch::{Exact, NotOlderThan, Unset};
    let state = |version, matching, limit| {
        let at = options(version, matching, limit).at().unwrap();
        (at.revision, at.freshness, at.at_least)
    };
    assert_eq!(state(None, Unset, 0), (None, Freshness::Linearizable, 0));
    assert_eq!(state(Some(0), Unset, 0), (None, Freshness::Local, 0));
    assert_eq!(state(Some(0), NotOlderThan, 5), (None, Freshness::Local, 0));
    assert_eq!(state(Some(9), Unset, 0), (None, Freshness::Linearizable, 9));
    assert_eq!(state(Some(9), Unset, 5), (Some(9), Freshness::Local, 0));
    assert_eq!(state(Some(9), Exact, 0), (Some(9), Freshness::Local, 0));
    assert_eq!(
        state(Some(9), NotOlderThan, 5),
        (None, Freshness::Linearizable, 9)
    );
    assert_eq!(options(None, Exact, 0).at().unwrap_err().code(), 422);
    assert_eq!(options(Some(0), Exact, 0).at().unwrap_err().code(), 422);
}

#[test]
fn a_continue_token_forbids_a_resource_version() {
    let mut with_both = options(Some(3), VersionMatch::Unset, 1);
    with_both.continue_token = Continue::new(7, "default/a").encode();
    assert_eq!(with_both.at().unwrap_err().code(), 400);
    with_both.resource_version = Some(0);
    assert_eq!(with_both.at().unwrap().revision, Some(7));
}

proptest! {
    #[test]
    fn tokens_survive_the_round_trip(revision in any::<u64>(), start in "\\PC{1,60}") {
        let token = Continue::new(revision, &start);
        prop_assert_eq!(Continue::decode(&token.encode()).unwrap(), token);
    }

    #[test]
    fn any_token_is_judged_without_panic(text in "\\PC{0,100}") {
        if let Err(error) = Continue::decode(&text) {
            prop_assert_eq!(error.code(), 400);
        }
    }
}
