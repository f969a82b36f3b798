//! The node's key, by which its receipts are signed (Ed25519, RFC 8032).

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;

use crate::image::trust::Key as PublicKey;
use crate::problem::Problem;

/// SubjectPublicKeyInfo of an Ed25519 key up to its bytes (RFC 8410).
const PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A private key.
pub struct Key(Ed25519KeyPair);

/// A public key: the private one's, or one from a file.
pub enum Public {
    Own(Vec<u8>),
    File(PublicKey),
}

impl Public {
    /// # Errors
    /// As [`PublicKey::read`].
    pub fn read(path: &Path) -> Result<Self, Problem> {
        PublicKey::read(path).map(Self::File)
    }

    /// Whether `signature` is this key's on `message`.
    pub fn made(&self, signature: &[u8], message: &[u8]) -> bool {
        match self {
            Self::File(key) => key.made(signature, message),
            Self::Own(bytes) => {
                ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, bytes)
                    .verify(message, signature)
                    .is_ok()
            }
        }
    }
}

impl Key {
    /// Reads a private key in PEM (PKCS #8), as `openssl genpkey -algorithm
    /// ed25519` writes it, or [`Key::make`].
    ///
    /// # Errors
    /// It cannot be read, is another kind of key, or not its owner's alone.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        let wrong = |why: String| {
            Problem::site(format!("receipt-key {}: {why}", path.display()))
                .hint("denovo receipt key FILE makes one")
        };
        let file = File::open(path).map_err(|e| wrong(e.to_string()))?;
        let meta = file.metadata().map_err(|e| wrong(e.to_string()))?;
        if meta.uid() != nix::unistd::geteuid().as_raw() || meta.mode() & 0o077 != 0 {
            return Err(wrong("is for its owner alone: chmod 600".to_owned()));
        }
        let mut text = Vec::new();
        file.take(1 << 16).read_to_end(&mut text).map_err(|e| wrong(e.to_string()))?;
        let der = PrivatePkcs8KeyDer::from_pem_slice(&text).map_err(|e| wrong(e.to_string()))?;
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der())
            .map(Self)
            .map_err(|e| wrong(format!("is no Ed25519 key: {e}")))
    }

    /// Makes a key in a new file that only its owner can read.
    ///
    /// # Errors
    /// The file exists or cannot be written.
    pub fn make(path: &Path) -> Result<Self, Problem> {
        let ours = |_| Problem::kernel("no random numbers for a key");
        let der = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).map_err(ours)?;
        let text = pem("PRIVATE KEY", der.as_ref());
        let mut options = OpenOptions::new();
        options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|e| {
                Problem::user(format!("{}: cannot be made: {e}", path.display()))
                    .hint("name a file that is not there yet")
            })?;
        Self::read(path)
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }

    pub fn public(&self) -> Public {
        Public::Own(self.0.public_key().as_ref().to_vec())
    }

    /// The public key in PEM.
    pub fn public_pem(&self) -> String {
        pem("PUBLIC KEY", &[&PREFIX, self.0.public_key().as_ref()].concat())
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|l| std::str::from_utf8(l).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_made_signs_and_its_public_half_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (private, public) = (dir.path().join("key"), dir.path().join("key.pub"));
        let key = Key::make(&private).unwrap();
        assert!(Key::make(&private).is_err(), "it would be lost");
        std::fs::write(&public, key.public_pem()).unwrap();
        let signature = Key::read(&private).unwrap().sign(b"text");
        for public in [key.public(), Public::read(&public).unwrap()] {
            assert!(public.made(&signature, b"text") && !public.made(&signature, b"test"));
        }
    }
}
