//! The ends of things: namespaces, nodes, owners.
