//! Public keys.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;

use crate::problem::Problem;

/// SubjectPublicKeyInfo (RFC 5280, section 4.1) of a P-256 key up to its
/// uncompressed point (RFC 5480), and of an Ed25519 key up to its bytes (RFC
/// 8410). DER has one form of each, so that these need no parser.
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const EDWARDS: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The most that is read of a key's file, in bytes.
const LONGEST: u64 = 1 << 16;

/// A public key and the file that it is from.
#[derive(Debug)]
pub struct Key {
    pub file: String,
    algorithm: &'static dyn VerificationAlgorithm,
    bytes: Vec<u8>,
}

impl Key {
    /// Reads a public key in PEM.
    ///
    /// # Errors
    /// It cannot be read, is of another kind, or it is root that asks and
    /// others can write the file.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        let wrong = |why: String| {
            Problem::site(format!("key {}: {why}", path.display())).hint(
                "a key is a file in PEM that begins with BEGIN PUBLIC KEY: cosign.pub, or what `openssl pkey -pubout` prints",
            )
        };
        let file = File::open(path).map_err(|e| wrong(e.to_string()))?;
        let meta = file.metadata().map_err(|e| wrong(e.to_string()))?;
        if nix::unistd::geteuid().is_root() && (meta.uid() != 0 || meta.mode() & 0o022 != 0) {
            return Err(wrong(
                "root does not trust a key that others can write: chown root, chmod go-w"
                    .to_owned(),
            ));
        }
        let mut text = Vec::new();
        file.take(LONGEST).read_to_end(&mut text).map_err(|e| wrong(e.to_string()))?;
        Self::parse(&text, &path.display().to_string()).map_err(wrong)
    }

    fn parse(text: &[u8], file: &str) -> Result<Self, String> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(text).map_err(|e| e.to_string())?;
        let (algorithm, bytes): (&'static dyn VerificationAlgorithm, &[u8]) =
            if let Some(point) = der.strip_prefix(&P256).filter(|p| p.len() == 65 && p[0] == 4) {
                (&ECDSA_P256_SHA256_ASN1, point)
            } else if let Some(bytes) = der.strip_prefix(&EDWARDS).filter(|b| b.len() == 32) {
                (&ED25519, bytes)
            } else {
                return Err("is neither ECDSA on P-256 nor Ed25519".to_owned());
            };
        Ok(Self { file: file.to_owned(), algorithm, bytes: bytes.to_vec() })
    }

    /// Whether `signature` is one of this key on `message`: ECDSA with SHA-256
    /// in DER, or Ed25519.
    pub fn made(&self, signature: &[u8], message: &[u8]) -> bool {
        UnparsedPublicKey::new(self.algorithm, &self.bytes).verify(message, signature).is_ok()
    }
}
