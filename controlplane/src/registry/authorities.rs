//! Which CAs the cluster trusts, as its members agree on it. Each member has the CAs in files of its own; the store has
//! their digests, so that a member with a CA that no other has is noticed before anything is signed with it.

use super::{ApiError, Registry};
use crate::store::{Compare, Freshness, Op, Txn, TxnOutcome};

const KNOWN: &str = "/waggle/authorities";
const ATTEMPTS: usize = 8;

/// Why a member may not go on with the CAs that it has.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    #[error(
        "this member trusts a CA ({0}) that the others do not know: a second CA is made on one member, and on the others \
         ca-next.crt and ca-next.key are copied from it to the folder pki before the step `add` is taken there"
    )]
    Foreign(String),
    #[error(transparent)]
    Store(#[from] ApiError),
}

/// What the cluster knows, by digest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Known {
    /// In the order in which they came: one, or two while there is a change.
    trusted: Vec<String>,
    /// Given up by some member already; others may still have it.
    dropped: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    Write(Known),
    Refuse(String),
}

/// `own` are this member's CAs, the signer first.
fn plan(known: &Known, own: &[String]) -> Plan {
    let shared = own.iter().any(|one| known.trusted.contains(one));
    let foreign = own
        .iter()
        .find(|one| !known.trusted.contains(one) && known.dropped.as_ref() != Some(*one));
    match (known.trusted.as_slice(), own, foreign) {
        // The first start, or the first on a snapshot of another cluster: no member of that is among us.
        (_, own, _) if !shared => Plan::Write(Known {
            trusted: own.to_vec(),
            dropped: None,
        }),
        // The last step: what was the second is the only one.
        ([first, second], [only], None) if only == second => Plan::Write(Known {
            trusted: own.to_vec(),
            dropped: Some(first.clone()),
        }),
        (_, _, None) => Plan::Nothing,
        // The first step, on the first member.
        ([one], _, Some(foreign)) => Plan::Write(Known {
            trusted: vec![one.clone(), foreign.clone()],
            dropped: None,
        }),
        (_, _, Some(foreign)) => Plan::Refuse(foreign.clone()),
    }
}

impl Known {
    /// A line each, with a minus before what is dropped.
    fn parse(text: &str) -> Self {
        let mut known = Self::default();
        for line in text.lines() {
            match line.strip_prefix('-') {
                Some(dropped) => known.dropped = Some(dropped.to_owned()),
                None => known.trusted.push(line.to_owned()),
            }
        }
        known
    }

    fn encode(&self) -> String {
        let dropped = self.dropped.iter().map(|dropped| format!("-{dropped}"));
        let lines: Vec<String> = self.trusted.iter().cloned().chain(dropped).collect();
        lines.join("\n")
    }
}

impl Registry {
    /// Compares this member's CAs, told by their digests, with the cluster's.
    pub(crate) async fn agree_on_authorities(&self, own: &[String]) -> Result<(), AuthorityError> {
        for _ in 0..ATTEMPTS {
            let stored = self
                .store()
                .get(KNOWN, Freshness::Linearizable)
                .await
                .map_err(ApiError::from)?;
            let known = stored.as_ref().map_or_else(Known::default, |kv| {
                Known::parse(&String::from_utf8_lossy(&kv.value))
            });
            let agreed = match plan(&known, own) {
                Plan::Nothing => return Ok(()),
                Plan::Refuse(foreign) => return Err(AuthorityError::Foreign(foreign)),
                Plan::Write(agreed) => agreed,
            };
            let txn = Txn {
                compares: vec![Compare {
                    key: KNOWN.to_owned(),
                    mod_revision: stored.map_or(0, |kv| kv.mod_revision),
                }],
                ops: vec![Op::Put {
                    key: KNOWN.to_owned(),
                    value: agreed.encode().into(),
                }],
            };
            match self.store().txn(txn).await.map_err(ApiError::from)? {
                TxnOutcome::Committed { .. } => return Ok(()),
                TxnOutcome::Conflict { .. } => {}
            }
        }
        Err(ApiError::timeout("the members did not agree on their CAs").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The members' CAs, one letter each, and what the cluster knows when they start one after the other.
    fn started(members: &[&str], known: &str) -> Result<String, String> {
        let list = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        let mut known = Known {
            trusted: list(known),
            dropped: None,
        };
        for member in members {
            match plan(&known, &list(member)) {
                Plan::Nothing => {}
                Plan::Write(agreed) => known = Known::parse(&agreed.encode()),
                Plan::Refuse(foreign) => return Err(foreign),
            }
        }
        Ok(known.encode().replace('\n', ""))
    }

    #[test]
    fn members_go_through_the_steps_together() {
        let known = |text: &str| Ok(text.to_owned());
        assert_eq!(started(&["A", "A", "A"], ""), known("A"));
        // Added, on one after the other; those that wait are started as well.
        assert_eq!(started(&["AB", "A", "AB", "A", "AB"], "A"), known("AB"));
        // Switched.
        assert_eq!(started(&["BA", "AB", "BA", "BA"], "AB"), known("AB"));
        // Dropped, while others still have both.
        let dropping = ["B", "BA", "B", "BA", "B", "B"];
        assert_eq!(started(&dropping, "AB"), known("B-A"));
        // And once more.
        let again = [dropping.as_slice(), &["BC", "B", "BC", "CB", "C"]].concat();
        assert_eq!(started(&again, "AB"), known("C-B"));
        // A snapshot that is restored where the CA is another.
        assert_eq!(started(&["X"], "A"), known("X"));
    }

    #[test]
    fn a_second_ca_of_ones_own_is_refused() {
        assert_eq!(started(&["AB", "AC"], "A"), Err("C".to_owned()));
        assert_eq!(started(&["CA"], "AB"), Err("C".to_owned()));
    }
}
