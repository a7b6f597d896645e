//! Certificates, authentication and authorization. Serves `api` and `sync`; knows no kinds and no store.

mod authorizer;
mod identity;
mod pki;

pub(crate) use authorizer::{Attributes, Authorizer, Chain, rbac};
pub(crate) use identity::User;
pub use pki::NodeIdentity;
pub(crate) use pki::member::{MemberTls, is_member};
pub(crate) use pki::{Pki, PkiError, Sans, issue_node, write_shared};
