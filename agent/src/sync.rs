//! Node sync from the agent's side.
