//! Parsers of outside bytes, for the fuzz targets in `tests/fuzz` and for the property tests below, which go the same ways
//! for a moment.

/// As what a SPDY client sends.
pub fn spdy(bytes: &[u8]) {
    crate::spdy::fuzz(bytes);
}

/// As the path of a request.
pub fn path(bytes: &[u8]) {
    crate::api::fuzz::path(bytes);
}

/// As the query of a request.
pub fn query(bytes: &[u8]) {
    crate::api::fuzz::query(bytes);
}

/// As the body of a write: the first byte chooses the kind and the encoding.
pub fn body(bytes: &[u8]) {
    crate::api::fuzz::body(bytes);
}

/// As a patch of each kind.
pub fn patch(bytes: &[u8]) {
    crate::api::fuzz::patch(bytes);
}

/// As a selector of labels, and of fields.
pub fn selector(bytes: &[u8]) {
    crate::registry::selector::fuzz(bytes);
}

/// As a bearer token, and as what a token claims.
pub fn token(bytes: &[u8]) {
    crate::auth::token::fuzz(bytes);
}

/// As an expression of a policy.
pub fn expression(bytes: &[u8]) {
    crate::kinds::custom::expressions::fuzz(bytes);
}

/// As a message of another member: the first byte chooses which.
pub fn raft(bytes: &[u8]) {
    crate::store::fuzz::raft(bytes);
}

/// As records of the store's disk.
pub fn record(bytes: &[u8]) {
    crate::store::fuzz::record(bytes);
}

/// As a snapshot.
pub fn snapshot(bytes: &[u8]) {
    crate::store::fuzz::snapshot(bytes);
}

#[cfg(test)]
mod tests;
