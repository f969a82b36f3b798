//! Files of the kernel that are read again and again, kept open: one call gives
//! the whole text as it is then.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Most of them; more are not kept.
const MOST: usize = 64;

#[derive(Default)]
pub struct Kept {
    files: Mutex<HashMap<PathBuf, File>>,
}

impl Kept {
    /// The text of a file; `None` when it cannot be read, as once its group is
    /// gone.
    pub fn read(&self, path: &Path) -> Option<String> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = files.get(path).and_then(whole) {
            return Some(text);
        }
        // Another group may stand at this path by now.
        files.remove(path);
        let file = File::open(path).ok()?;
        let text = whole(&file)?;
        if files.len() < MOST {
            files.insert(path.to_owned(), file);
        }
        Some(text)
    }
}

fn whole(file: &File) -> Option<String> {
    let mut bytes = vec![0; 8192];
    let mut length = 0;
    loop {
        match file.read_at(&mut bytes[length..], length as u64).ok()? {
            0 => break,
            count => length += count,
        }
        // What is made record by record may come in pieces of any length.
        if length > bytes.len() / 2 {
            bytes.resize(bytes.len() * 2, 0);
        }
    }
    bytes.truncate(length);
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_whole_and_as_it_is_now() {
        let dir = std::env::temp_dir().join(format!("denovo-kept-{}", std::process::id()));
        let kept = Kept::default();
        for size in [0, 1, 4095, 4096, 8192, 50_000] {
            let text = "x".repeat(size);
            std::fs::write(&dir, &text).unwrap();
            assert_eq!(kept.read(&dir).as_deref(), Some(&*text), "{size}");
        }
        std::fs::remove_file(&dir).unwrap();
        let cpus = kept.read(Path::new("/proc/cpuinfo")).unwrap();
        let counted = |text: &str| text.matches("processor\t:").count();
        assert_eq!(counted(&cpus), counted(&std::fs::read_to_string("/proc/cpuinfo").unwrap()));
    }
}
