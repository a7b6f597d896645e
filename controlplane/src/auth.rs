//! Certificates, authentication and authorization.
