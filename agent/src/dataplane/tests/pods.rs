//! Packets of pods.
