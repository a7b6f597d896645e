//! Filters and scores as pure functions over a cached snapshot; binds in batches.
