//! Node sync: the gRPC side of the control plane.
