//! A read shows what the store held at the revision that it names, all of it.

use super::super::history::{Contents, History};

pub(super) fn check(history: &History) -> Result<(), String> {
    let mut reads: Vec<_> = history.reads.iter().collect();
    reads.sort_by_key(|read| read.revision);
    let mut contents = Contents::new();
    let mut events = history.truth.iter().peekable();
    for read in reads {
        while let Some(event) = events.next_if(|event| event.revision <= read.revision) {
            match &event.value {
                Some(value) => contents.insert(event.key.clone(), (value.clone(), event.revision)),
                None => contents.remove(&event.key),
            };
        }
        if contents != read.contents {
            return Err(format!("{read:?}, but there was {contents:?}"));
        }
    }
    Ok(())
}
