//! Text that is ready for a system call.

use std::ffi::{CStr, CString};
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A string without NUL bytes, stored the way the kernel takes it.
///
/// A plan is made of these, so that the child of a clone needs no allocation
/// to carry its steps out.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CText(CString);

/// The text held a NUL byte, which no path or argument of a system call can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} holds a NUL byte")]
pub struct NulByte(pub String);

impl CText {
    /// Takes `text` over.
    ///
    /// # Errors
    /// [`NulByte`] when `text` holds a NUL byte.
    pub fn new(text: impl Into<Vec<u8>>) -> Result<Self, NulByte> {
        CString::new(text)
            .map(Self)
            .map_err(|e| NulByte(String::from_utf8_lossy(&e.into_vec()).into_owned()))
    }

    /// Takes text over that cannot hold a NUL byte; what follows one is cut.
    pub fn lossy(text: impl Into<Vec<u8>>) -> Self {
        let mut bytes: Vec<u8> = text.into();
        if let Some(end) = bytes.iter().position(|b| *b == 0) {
            bytes.truncate(end);
        }
        Self(CString::new(bytes).unwrap_or_default())
    }

    pub fn as_c_str(&self) -> &CStr {
        &self.0
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The text as UTF-8; bytes that are not are shown as U+FFFD.
    pub fn to_string_lossy(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }

    pub fn as_path(&self) -> &std::path::Path {
        use std::os::unix::ffi::OsStrExt;
        std::path::Path::new(std::ffi::OsStr::from_bytes(self.0.as_bytes()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.as_bytes().is_empty()
    }
}

impl AsRef<CStr> for CText {
    fn as_ref(&self) -> &CStr {
        &self.0
    }
}

impl fmt::Display for CText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_string_lossy())
    }
}

impl fmt::Debug for CText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.to_string_lossy())
    }
}

impl Serialize for CText {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0.to_string_lossy())
    }
}

impl<'de> Deserialize<'de> for CText {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::new(text).map_err(serde::de::Error::custom)
    }
}
