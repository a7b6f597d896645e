//! A disk whose values are encrypted and authenticated (XChaCha20-Poly1305), each bound to its key on the disk, so that
//! none can be read, changed or put elsewhere without the member's keys. Which keys there are is in [`super::keyring`].
//! Names of objects, which are in the keys of the disk, are not hidden.
//!
//! ```text
//! "wgsl" | key id (4) | nonce (24) | ciphertext and tag
//! ```
//! Lock order: `writing`, then `ring`.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use chacha20poly1305::aead::{Aead, AeadInPlace as _, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};

use super::disk::{Disk, DiskError, Write};
use super::keyring::{FILE, Keyring};

const MAGIC: &[u8; 4] = b"wgsl";
const NONCE: usize = 24;
const HEAD: usize = MAGIC.len() + 4 + NONCE;
const TAG: usize = 16;
/// Values that are sealed anew in one go; writers wait that long.
const BATCH: usize = 128;
/// Behind every key of a store.
const END: &[u8] = &[0xff];

struct Ring {
    ring: Keyring,
    ciphers: Vec<(u32, XChaCha20Poly1305)>,
}

pub(super) struct SealedDisk<D> {
    inner: D,
    path: PathBuf,
    ring: RwLock<Ring>,
    /// Held by whoever writes, so that sealing anew never puts an old value over a new one.
    writing: Mutex<()>,
}

impl Ring {
    fn of(ring: Keyring) -> Self {
        let ciphers = ring
            .keys
            .iter()
            .filter_map(|key| Some((key.id, XChaCha20Poly1305::new(&key.secret()?.into()))))
            .collect();
        Self { ring, ciphers }
    }

    fn primary(&self) -> u32 {
        self.ciphers.first().map_or(0, |(id, _)| *id)
    }

    fn seal(&self, key: &[u8], value: &[u8]) -> Result<Vec<u8>, DiskError> {
        let failed = || DiskError::Io("a value could not be sealed".to_owned());
        let (id, cipher) = self.ciphers.first().ok_or_else(failed)?;
        let mut nonce = [0; NONCE];
        rand::Rng::fill(&mut rand::rng(), &mut nonce);
        let mut out = Vec::with_capacity(HEAD + value.len() + TAG);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&nonce);
        out.extend_from_slice(value);
        let tag = cipher
            .encrypt_in_place_detached(XNonce::from_slice(&nonce), key, &mut out[HEAD..])
            .map_err(|_| failed())?;
        out.extend_from_slice(&tag);
        Ok(out)
    }

    /// The value, and whether it is sealed with the key that seals now.
    fn open(&self, key: &[u8], stored: &[u8]) -> Result<(Vec<u8>, bool), DiskError> {
        match self.unseal(key, stored) {
            Some(opened) => Ok(opened),
            None if self.ring.plain => Ok((stored.to_vec(), false)),
            None => Err(DiskError::Corrupt(
                "a sealed value does not open: it was changed, or its key is missing".to_owned(),
            )),
        }
    }

    fn unseal(&self, key: &[u8], stored: &[u8]) -> Option<(Vec<u8>, bool)> {
        let (head, sealed) = stored.split_at_checked(HEAD)?;
        let rest = head.strip_prefix(MAGIC)?;
        let (id, nonce) = rest.split_at_checked(4)?;
        let id = u32::from_be_bytes(id.try_into().ok()?);
        let (_, cipher) = self.ciphers.iter().find(|(known, _)| *known == id)?;
        let payload = Payload {
            msg: sealed,
            aad: key,
        };
        let value = cipher.decrypt(XNonce::from_slice(nonce), payload).ok()?;
        Some((value, id == self.primary()))
    }
}

impl<D: Disk> SealedDisk<D> {
    /// `inner` is what is in `directory`, where the keys are too; they are made for a disk that has none. What an
    /// earlier start has left half sealed is completed here.
    pub(super) fn open(inner: D, directory: &Path) -> Result<Self, DiskError> {
        let path = directory.join(FILE);
        let ring = match Keyring::read(&path)? {
            Some(ring) => ring,
            None => {
                let ring = Keyring::first(look(&inner, &path)?);
                ring.write(&path)?;
                ring
            }
        };
        let unfinished = ring.plain || ring.keys.len() > 1;
        let disk = Self {
            inner,
            path,
            ring: RwLock::new(Ring::of(ring)),
            writing: Mutex::default(),
        };
        if unfinished {
            disk.seal_anew()?;
        }
        Ok(disk)
    }

    fn read_ring(&self) -> std::sync::RwLockReadGuard<'_, Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_ring(&self, ring: Keyring) -> Result<(), DiskError> {
        ring.write(&self.path)?;
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Ring::of(ring);
        Ok(())
    }

    /// How often the cluster has asked for another key, as far as this disk has followed.
    pub(super) fn generation(&self) -> u64 {
        self.read_ring().ring.generation
    }

    /// Another key from now on; everything is sealed with it when this returns, and the old keys are gone.
    pub(super) fn rotate(&self, generation: u64) -> Result<(), DiskError> {
        let rotated = self.read_ring().ring.rotated();
        self.set_ring(rotated)?;
        self.seal_anew()?;
        let done = Keyring {
            generation,
            ..self.read_ring().ring.clone()
        };
        self.set_ring(done)
    }

    fn seal_anew(&self) -> Result<(), DiskError> {
        let mut from = Vec::new();
        while let Some(last) = self.seal_batch(&from)? {
            from = last;
            // The next key there can be.
            from.push(0);
        }
        self.inner.sync()?;
        let settled = self.read_ring().ring.settled();
        self.set_ring(settled)
    }

    /// Returns the last key that was looked at, until there is none.
    fn seal_batch(&self, from: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = self.read_ring();
        let mut writes: Vec<Write> = Vec::new();
        let mut last = None;
        let mut count = 0;
        let mut failure = None;
        self.inner.scan(from, END, &mut |key, stored| {
            let result = ring.open(key, stored).and_then(|(value, current)| {
                if !current {
                    writes.push((key.to_vec(), Some(ring.seal(key, &value)?)));
                }
                Ok(())
            });
            failure = result.err();
            last = Some(key.to_vec());
            count += 1;
            failure.is_none() && count < BATCH
        })?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        self.inner.write(writes)?;
        Ok(last)
    }
}

/// Whether there is anything on the disk; values that are sealed must not have lost their keys.
fn look(disk: &impl Disk, path: &Path) -> Result<bool, DiskError> {
    let (mut plain, mut sealed) = (false, false);
    disk.scan(&[], END, &mut |_, stored| {
        sealed |= stored.starts_with(MAGIC);
        plain = true;
        !sealed
    })?;
    if sealed {
        let why = "it is missing, and the data are sealed with it";
        return Err(DiskError::Corrupt(format!("{}: {why}", path.display())));
    }
    Ok(plain)
}

impl<D: Disk> Disk for SealedDisk<D> {
    #[cfg(test)]
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        match self.inner.get(key)? {
            Some(stored) => Ok(Some(self.read_ring().open(key, &stored)?.0)),
            None => Ok(None),
        }
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), DiskError> {
        let ring = self.read_ring();
        let mut failure = None;
        self.inner.scan(
            start,
            end,
            &mut |key, stored| match ring.open(key, stored) {
                Ok((value, _)) => visit(key, &value),
                Err(error) => {
                    failure = Some(error);
                    false
                }
            },
        )?;
        failure.map_or(Ok(()), Err)
    }

    fn scan_keys(
        &self,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), DiskError> {
        self.inner.scan_keys(start, end, visit)
    }

    fn write(&self, writes: Vec<Write>) -> Result<(), DiskError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = self.read_ring();
        let sealed: Result<Vec<Write>, DiskError> = writes
            .into_iter()
            .map(|(key, value)| {
                let value = value.map(|value| ring.seal(&key, &value)).transpose()?;
                Ok((key, value))
            })
            .collect();
        self.inner.write(sealed?)
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.inner.sync()
    }

    fn settle(&self) -> Result<(), DiskError> {
        self.inner.settle()
    }

    fn available(&self) -> Option<u64> {
        self.inner.available()
    }

    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn is_mostly_garbage(&self) -> Result<bool, DiskError> {
        self.inner.is_mostly_garbage()
    }

    fn defragment(&self) -> Result<(u64, u64), DiskError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner.defragment()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::disk::fake::FakeDisk;
    use super::*;

    fn put(disk: &impl Disk, key: &str, value: &str) {
        disk.write(vec![(key.into(), Some(value.into()))]).unwrap();
    }

    fn raw(disk: &FakeDisk, key: &str) -> Vec<u8> {
        disk.get(key.as_bytes()).unwrap().unwrap()
    }

    fn holds(bytes: &[u8], text: &str) -> bool {
        bytes
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    }

    #[test]
    fn nothing_is_on_the_disk_as_it_was_written() {
        let (inner, dir) = (FakeDisk::default(), tempfile::tempdir().unwrap());
        let disk = SealedDisk::open(inner.clone(), dir.path()).unwrap();
        put(&disk, "a", "sesame");
        assert!(!holds(&raw(&inner, "a"), "sesame"));
        assert_eq!(disk.get(b"a").unwrap().unwrap(), b"sesame");
        // The same value elsewhere, or changed, is refused.
        let stolen = raw(&inner, "a");
        inner.write(vec![(b"b".to_vec(), Some(stolen))]).unwrap();
        assert!(matches!(disk.get(b"b"), Err(DiskError::Corrupt(_))));
        inner
            .write(vec![(b"b".to_vec(), Some(b"plain".to_vec()))])
            .unwrap();
        assert!(matches!(disk.get(b"b"), Err(DiskError::Corrupt(_))));
        let again = SealedDisk::open(inner.clone(), dir.path()).unwrap();
        assert_eq!(again.get(b"a").unwrap().unwrap(), b"sesame");
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        let lost = SealedDisk::open(inner, dir.path());
        assert!(matches!(lost, Err(DiskError::Corrupt(_))));
    }

    #[test]
    fn a_look_at_keys_opens_nothing() {
        let (inner, dir) = (FakeDisk::default(), tempfile::tempdir().unwrap());
        let disk = SealedDisk::open(inner.clone(), dir.path()).unwrap();
        put(&disk, "a", "sesame");
        inner
            .write(vec![(b"b".to_vec(), Some(b"broken".to_vec()))])
            .unwrap();
        let mut keys = Vec::new();
        let look = disk.scan_keys(b"a", b"c", &mut |key| {
            keys.push(key.to_vec());
            true
        });
        assert_eq!(look, Ok(()));
        assert_eq!(keys, [b"a", b"b"]);
        assert!(disk.scan(b"a", b"c", &mut |_, _| true).is_err());
    }

    #[test]
    fn what_was_there_before_is_sealed_at_the_first_start() {
        let (inner, dir) = (FakeDisk::default(), tempfile::tempdir().unwrap());
        for n in 0..300 {
            put(&inner, &format!("k{n:03}"), "sesame");
        }
        let disk = SealedDisk::open(inner.clone(), dir.path()).unwrap();
        for n in 0..300 {
            let key = format!("k{n:03}");
            assert!(!holds(&raw(&inner, &key), "sesame"), "{key}");
            assert_eq!(disk.get(key.as_bytes()).unwrap().unwrap(), b"sesame");
        }
        inner
            .write(vec![(b"x".to_vec(), Some(b"plain".to_vec()))])
            .unwrap();
        assert!(disk.get(b"x").is_err(), "from now on only what is sealed");
    }

    #[test]
    fn another_key_takes_the_place_of_the_first() {
        let (inner, dir) = (FakeDisk::default(), tempfile::tempdir().unwrap());
        let disk = SealedDisk::open(inner.clone(), dir.path()).unwrap();
        for n in 0..200 {
            put(&disk, &format!("k{n:03}"), "sesame");
        }
        let old = std::fs::read(dir.path().join(FILE)).unwrap();
        let before = raw(&inner, "k199");
        disk.rotate(7).unwrap();
        assert_ne!(raw(&inner, "k199"), before);
        assert_eq!(disk.get(b"k199").unwrap().unwrap(), b"sesame");
        let again = SealedDisk::open(inner.clone(), dir.path()).unwrap();
        assert_eq!(again.generation(), 7);
        assert_eq!(again.get(b"k000").unwrap().unwrap(), b"sesame");
        // The key that was replaced opens nothing any more.
        std::fs::write(dir.path().join(FILE), old).unwrap();
        let stale = SealedDisk::open(inner, dir.path()).unwrap();
        assert!(stale.get(b"k000").is_err());
    }
}
