//! Tests of `auth::pki`.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::auth::User;

fn sans(extra: &str) -> Sans {
    let mut sans = Sans::default();
    for name in ["localhost", "127.0.0.1", "::1", extra] {
        sans.add(name);
    }
    sans
}

fn now() -> jiff::Timestamp {
    "2026-05-05T10:00:00Z".parse().unwrap()
}

fn later(days: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(now().as_second() + days * DAY).unwrap()
}

fn user(pem: &str) -> User {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    User::from_certificate(&der).unwrap()
}

#[test]
fn a_second_start_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let first = Pki::open(dir.path(), &sans("a"), now()).unwrap();
    let second = Pki::open(dir.path(), &sans("a"), later(30)).unwrap();
    assert_eq!(first.ca_pem, second.ca_pem);
    assert_eq!(first.serving.leaf(), second.serving.leaf());
    assert_eq!(first.admin.key, second.admin.key);
    for file in ["ca.key", "server.key", "admin.key"] {
        let mode = std::fs::metadata(dir.path().join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn what_is_near_its_end_or_lacks_a_name_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let first = Pki::open(dir.path(), &sans("a"), now()).unwrap();
    let renamed = Pki::open(dir.path(), &sans("b"), now()).unwrap();
    assert_ne!(first.serving.leaf(), renamed.serving.leaf());
    assert_eq!(first.admin.certificate, renamed.admin.certificate);
    let renewed = Pki::open(dir.path(), &sans("b"), later(LEAF_DAYS - 30)).unwrap();
    assert_ne!(renamed.serving.leaf(), renewed.serving.leaf());
    assert_ne!(renamed.admin.certificate, renewed.admin.certificate);
    assert_eq!(first.ca_pem, renewed.ca_pem);
}

#[test]
fn a_lost_ca_key_is_not_replaced_silently() {
    let dir = tempfile::tempdir().unwrap();
    drop(Pki::open(dir.path(), &sans("a"), now()).unwrap());
    std::fs::remove_file(dir.path().join("ca.key")).unwrap();
    let error = Pki::open(dir.path(), &sans("a"), now()).unwrap_err();
    assert!(error.to_string().contains("ca.key: missing"), "{error}");
}

#[test]
fn damaged_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    drop(Pki::open(dir.path(), &sans("a"), now()).unwrap());
    std::fs::write(dir.path().join("ca.crt"), "nonsense").unwrap();
    let error = Pki::open(dir.path(), &sans("a"), now()).unwrap_err();
    assert!(error.to_string().contains("ca.crt"), "{error}");
}

#[test]
fn an_expired_ca_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Pki::open(dir.path(), &sans("a"), now()).unwrap());
    let error = Pki::open(dir.path(), &sans("a"), later(CA_DAYS + 2)).unwrap_err();
    assert!(error.to_string().contains("expired"), "{error}");
}

#[test]
fn certificates_name_their_users() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), &sans("a"), jiff::Timestamp::now()).unwrap();
    let admin = user(pki.admin().0);
    assert!(admin.is_in("system:masters") && admin.is_in("system:authenticated"));
    let node = user(&pki.issue_node("n1").unwrap().certificate_pem);
    assert_eq!(node.node_name(), Some("n1"));
    let (stranger, _) = pki.issue_client("system:node:n1", None);
    assert_eq!(user(&stranger).node_name(), None);
    pki.server_config().unwrap();
}
