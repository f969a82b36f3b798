//! Links in the root that lead to what is not there yet.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::readlinkat;

use super::{Child, Fault};

/// As many links as the kernel follows in one path (path_resolution(7)).
const MOST: usize = 40;

impl Child<'_> {
    /// The path with every dangling link on it replaced by where it leads,
    /// so that what is missing can be made there: images have links such as
    /// /etc/resolv.conf into an empty /run. What comes out is still to be
    /// resolved inside the root.
    pub(super) fn past_dangling_links(&self, path: &CStr) -> Result<CString, Fault> {
        let mut path = path.to_bytes().to_vec();
        for _ in 0..MOST {
            let Some((start, end)) = self.first_missing(&path)? else { break };
            let parent = self.open_in_root(&text(&path[..start])?, libc::O_PATH, 0)?;
            match readlinkat(&parent, &*text(&path[start..end])?) {
                Ok(target) => {
                    let target = target.as_bytes();
                    let above = if target.starts_with(b"/") { &[][..] } else { &path[..start] };
                    path = [above, target, &path[end..]].concat();
                }
                // Nothing at all is there.
                Err(Errno::ENOENT | Errno::EINVAL) => return text(&path),
                Err(errno) => return Err(Fault { call: "readlink", errno }),
            }
        }
        match self.first_missing(&path)? {
            None => text(&path),
            Some(_) => Err(Fault { call: "readlink", errno: Errno::ELOOP }),
        }
    }

    /// Where the first component stands that cannot be reached.
    fn first_missing(&self, path: &[u8]) -> Result<Option<(usize, usize)>, Fault> {
        let mut start = 0;
        for part in path.split(|b| *b == b'/') {
            let end = start + part.len();
            if !part.is_empty() {
                match self.open_in_root(&text(&path[..end])?, libc::O_PATH, 0) {
                    Ok(_) => {}
                    Err(Fault { errno: Errno::ENOENT, .. }) => return Ok(Some((start, end))),
                    Err(fault) => return Err(fault),
                }
            }
            start = end + 1;
        }
        Ok(None)
    }
}

fn text(path: &[u8]) -> Result<CString, Fault> {
    let path = if path.is_empty() { b"/" } else { path };
    CString::new(path).map_err(|_| Fault { call: "openat2", errno: Errno::EINVAL })
}
