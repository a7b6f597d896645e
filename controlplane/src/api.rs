//! HTTP: TLS, routing, verbs, watch streams, discovery, tables, log streams.
