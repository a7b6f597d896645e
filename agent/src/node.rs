//! What the node is: capacity, addresses, conditions, Lease.
