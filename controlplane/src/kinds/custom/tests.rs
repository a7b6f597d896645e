//! Custom resources as their definitions say them.
