//! Sets of field paths.
