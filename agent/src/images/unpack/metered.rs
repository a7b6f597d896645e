//! Reading an archive within bounds: all of it, and what is read for the header of one entry; hashing it on
//! the way.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use crate::images::digest::{Digest, Hasher};

/// How much may be read until it is set again: bounds what the tar reader keeps in memory for headers.
#[derive(Clone)]
pub(super) struct Budget(Rc<Cell<u64>>);

pub(super) struct Metered<R> {
    source: R,
    hasher: Hasher,
    total: u64,
    headers: Budget,
}

#[derive(Debug, thiserror::Error)]
#[error("over the limit")]
struct OverLimit;

impl Budget {
    pub(super) fn set(&self, bytes: u64) {
        self.0.set(bytes);
    }
}

impl<R: Read> Metered<R> {
    /// At most `total` bytes of `source`, and at most what the budget, which is `total` at first, says.
    pub(super) fn new(source: R, total: u64) -> (Self, Budget) {
        let budget = Budget(Rc::new(Cell::new(total)));
        let metered = Self {
            source,
            hasher: Hasher::default(),
            total,
            headers: budget.clone(),
        };
        (metered, budget)
    }

    /// Of all that was read.
    pub(super) fn digest(self) -> Digest {
        self.hasher.finish()
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buffer)?;
        let length = n as u64;
        self.hasher.update(&buffer[..n]);
        let headers = self.headers.0.get();
        if length > self.total || length > headers {
            return Err(io::Error::other(OverLimit));
        }
        self.total -= length;
        self.headers.0.set(headers - length);
        Ok(n)
    }
}

/// The tar reader wraps what its source said.
pub(super) fn is_over_limit(error: &io::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = source {
        if inner.is::<OverLimit>() {
            return true;
        }
        source = match inner
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(wrapped) => Some(wrapped),
            None => inner.source(),
        };
    }
    false
}
