//! A new CA without anybody being cut off, in three steps that an operator takes one after the other, each on all
//! members and followed by a restart of them:
//!
//! 1. `add`: a second CA is made and trusted; the first still signs. It is made on one member; to the others `ca-next.crt`
//!    and `ca-next.key` are copied before they take the step. A member with one of its own does not start
//!    (`registry/authorities.rs`).
//! 2. `switch`: the second signs; the first is still trusted. Nodes get new certificates when they connect.
//! 3. `drop`: the first is trusted no more.
//!
//! Files: `ca.crt` has all that are trusted, the signer first; `ca.key` is the signer's; `ca-next.*` is the one to
//! come.

use std::path::Path;

use rcgen::PublicKeyData as _;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{
    CA_NAME, PkiError, certificate, content_error, create, generate, make_ca, read, write,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaStep {
    Add,
    Switch,
    Drop,
}

/// Takes one step with the files below `dir`. A step that was taken is refused, so that none is taken twice.
pub(crate) fn step(dir: &Path, step: CaStep, now: jiff::Timestamp) -> Result<(), PkiError> {
    create(dir)?;
    let (bundle, next) = (dir.join("ca.crt"), dir.join("ca-next.crt"));
    let (key, next_key) = (dir.join("ca.key"), dir.join("ca-next.key"));
    let trusted = read(&bundle)?
        .ok_or_else(|| content_error(&bundle, "there is no CA yet: start the member first"))?;
    match step {
        CaStep::Add => {
            let signer = first(&bundle, &trusted)?;
            let pem = match read(&next)? {
                // Copied from the member that made it; in place of one that this member made, if it did.
                Some(pem) if trusted != with(&signer, &pem) => {
                    fits(&next, &pem, &next_key)?;
                    pem
                }
                None if count(&bundle, &trusted)? == 1 => {
                    let pair = generate("the next cluster CA")?;
                    let pem = make_ca(CA_NAME, &pair, now)?;
                    write(&next_key, &pair.serialize_pem())?;
                    write(&next, &pem)?;
                    pem
                }
                _ => return Err(content_error(&next, "a second CA was added already")),
            };
            write(&bundle, &with(&signer, &pem))
        }
        CaStep::Switch => {
            let pem = read(&next)?.ok_or_else(|| content_error(&next, "add a second CA first"))?;
            let new_key =
                read(&next_key)?.ok_or_else(|| content_error(&next_key, "it is missing"))?;
            let old = first(&bundle, &trusted)?;
            // The key last but one: a crash in between leaves a key that does not fit, which a start refuses
            // and this step, taken again, completes.
            write(&bundle, &format!("{}{old}", ended(&pem)))?;
            write(&key, &new_key)?;
            remove(&next_key)?;
            remove(&next)
        }
        CaStep::Drop => {
            if next.exists() {
                return Err(content_error(&next, "switch to the second CA first"));
            }
            if count(&bundle, &trusted)? < 2 {
                return Err(content_error(&bundle, "there is no other CA to drop"));
            }
            let signer = first(&bundle, &trusted)?;
            write(&bundle, &signer)
        }
    }
}

/// A bundle of both.
fn with(signer: &str, other: &str) -> String {
    format!("{}{}", ended(signer), ended(other))
}

/// Refuses a certificate without its key.
fn fits(path: &Path, pem: &str, key: &Path) -> Result<(), PkiError> {
    let text = read(key)?.ok_or_else(|| content_error(key, "it is missing"))?;
    let pair = rcgen::KeyPair::from_pem(&text).map_err(|error| content_error(key, error))?;
    let der = certificate(path, pem)?;
    let parsed = super::parse(path, &der)?;
    if parsed.public_key().raw == pair.subject_public_key_info() {
        Ok(())
    } else {
        Err(content_error(key, "it is not the key of ca-next.crt"))
    }
}

fn ended(pem: &str) -> String {
    format!("{}\n", pem.trim_end())
}

fn count(path: &Path, bundle: &str) -> Result<usize, PkiError> {
    let mut count = 0;
    for found in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        found.map_err(|error| content_error(path, error))?;
        count += 1;
    }
    Ok(count)
}

/// The first certificate of a bundle, PEM.
fn first(path: &Path, bundle: &str) -> Result<String, PkiError> {
    const END: &str = "-----END CERTIFICATE-----";
    certificate(path, bundle)?;
    let at = bundle
        .find(END)
        .ok_or_else(|| content_error(path, "it has no certificate"))?;
    Ok(ended(&bundle[..at + END.len()]))
}

fn remove(path: &Path) -> Result<(), PkiError> {
    std::fs::remove_file(path).map_err(|error| super::file_error(path, error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::{Pki, Sans};
    use super::*;

    #[test]
    fn other_members_take_the_second_ca_that_was_copied_to_them() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let now = jiff::Timestamp::now();
        let open = |dir: &Path| Pki::open(dir, &Sans::default(), now).unwrap();
        let copy = |names: &[&str]| {
            for name in names {
                std::fs::copy(one.path().join(name), other.path().join(name)).unwrap();
            }
        };
        open(one.path());
        copy(&["ca.crt", "ca.key"]);
        open(other.path());
        step(one.path(), CaStep::Add, now).unwrap();
        // Forgotten to copy: it has one of its own, and can still take the right one.
        step(other.path(), CaStep::Add, now).unwrap();
        let authorities = |dir: &Path| open(dir).authorities().unwrap();
        assert_ne!(authorities(one.path()), authorities(other.path()));
        copy(&["ca-next.crt"]);
        assert!(
            step(other.path(), CaStep::Add, now).is_err(),
            "the key is of another"
        );
        copy(&["ca-next.key"]);
        step(other.path(), CaStep::Add, now).unwrap();
        assert_eq!(authorities(one.path()), authorities(other.path()));
        assert!(step(other.path(), CaStep::Add, now).is_err());
        step(other.path(), CaStep::Switch, now).unwrap();
        let reversed: Vec<String> = authorities(one.path()).into_iter().rev().collect();
        assert_eq!(authorities(other.path()), reversed);
    }

    #[test]
    fn each_step_keeps_those_who_trust_the_step_before() {
        let dir = tempfile::tempdir().unwrap();
        let now = jiff::Timestamp::now();
        let open = || Pki::open(dir.path(), &Sans::default(), now).unwrap();
        let bundle = || std::fs::read_to_string(dir.path().join("ca.crt")).unwrap();
        let old = open();
        assert!(step(dir.path(), CaStep::Switch, now).is_err());
        assert!(step(dir.path(), CaStep::Drop, now).is_err());
        step(dir.path(), CaStep::Add, now).unwrap();
        assert!(step(dir.path(), CaStep::Add, now).is_err());
        let both = open();
        assert_eq!(both.ca_hash().unwrap(), old.ca_hash().unwrap());
        assert_eq!(both.admin().0, old.admin().0, "still signed by the old one");
        assert!(both.ca_pem().starts_with(old.ca_pem().trim_end()));
        step(dir.path(), CaStep::Switch, now).unwrap();
        let new = open();
        assert_ne!(new.ca_hash().unwrap(), old.ca_hash().unwrap());
        assert_ne!(new.admin().0, old.admin().0);
        assert!(new.ca_pem().contains(old.ca_pem().trim_end()));
        step(dir.path(), CaStep::Drop, now).unwrap();
        let last = open();
        assert_eq!(last.ca_hash().unwrap(), new.ca_hash().unwrap());
        assert_eq!(count(Path::new("x"), &bundle()).unwrap(), 1);
        assert_eq!(last.admin().0, new.admin().0);
    }
}
