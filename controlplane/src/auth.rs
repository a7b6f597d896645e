//! Certificates, tokens, authentication and authorization. Serves `api`, `sync` and `controllers`.

mod authorizer;
pub(crate) mod csr;
mod identity;
mod pki;
pub(crate) mod token;

pub(crate) use authorizer::{Attributes, Authorizer, Chain, rbac};
pub(crate) use identity::{MASTERS, User};
pub use pki::NodeIdentity;
pub(crate) use pki::front_proxy::FrontProxy;
pub(crate) use pki::member::{MemberTls, is_member};
pub use pki::rotation::CaStep;
pub(crate) use pki::rotation::step as rotate_ca;
pub(crate) use pki::{Pki, PkiError, Sans, issue_node, write_shared};
pub use token::TokenConfig;
pub(crate) use token::Tokens;
