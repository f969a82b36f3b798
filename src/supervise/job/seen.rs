//! Which environments there are, and who keeps them.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use nix::sys::socket::sockopt::PeerCredentials;

use super::{absent, ask, connect_to, places};
use crate::record::job::{JobRecord, Jobs};
use crate::request::id::container_id;
use crate::supervise::container::Refusal;
use crate::supervise::protocol::{Reply, Request};
use crate::supervise::sockets::connect_within;

/// One environment as `job list` and `job show` see it.
#[derive(Debug, serde::Serialize)]
pub struct Seen {
    pub record: JobRecord,
    pub processes: usize,
    pub usage: crate::kernel::cgroup::Usage,
}

/// The caller's environments; root's view has everybody's.
pub fn list(base: &Path) -> Vec<Seen> {
    let mut all = Vec::new();
    for jobs in places_of_everybody(base) {
        for id in jobs.ids() {
            let begun = Instant::now();
            all.extend(look(&jobs, &id));
            // Whose monitors do not answer is not waited for once for each.
            if begun.elapsed().as_secs() >= OTHERS_ANSWER.unsigned_abs() {
                break;
            }
        }
    }
    all
}

/// # Errors
/// There is no environment of this id for the caller.
pub fn show(base: &Path, id: &str) -> Result<Seen, Refusal> {
    let places = places_of_everybody(base);
    places.iter().find_map(|jobs| look(jobs, id)).ok_or_else(|| absent(id).into())
}

fn look(jobs: &Jobs, id: &str) -> Option<Seen> {
    let socket = reach(jobs, id)?;
    match ask(&socket, &Request::Show).ok()? {
        // Else it is no monitor of denovo's.
        Reply::Shown { record, processes, usage } if record.id == id => {
            Some(Seen { record: *record, processes, usage })
        }
        _ => None,
    }
}

/// For root also what users made without privilege.
fn places_of_everybody(base: &Path) -> Vec<Jobs> {
    let mut all = places(base);
    all.extend(places_of_others());
    all
}

pub(super) fn places_of_others() -> Vec<Jobs> {
    if !nix::unistd::geteuid().is_root() {
        return Vec::new();
    }
    let below = |dir: &str| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    let runtime = below("/run/user").map(|p| p.join("denovo"));
    let all = below("/tmp").filter(|p| is_users(p)).chain(runtime);
    all.map(|p| Jobs::new(&p)).filter(|jobs| jobs.root().is_dir()).collect()
}

/// Whether it is the `/tmp/denovo-UID` of that very user.
fn is_users(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.symlink_metadata().is_ok_and(|m| name == format!("denovo-{}", m.uid()))
}

/// Seconds in which somebody else's monitor has to answer.
const OTHERS_ANSWER: i64 = 5;

/// Who keeps an environment. Root goes to users' as well, who can put any socket in
/// such a place: it must be the place's owner that listens, and may not keep us.
pub(super) fn reach(jobs: &Jobs, id: &str) -> Option<OwnedFd> {
    let own = nix::unistd::geteuid().as_raw();
    let owner = jobs.root().symlink_metadata().ok()?.uid();
    if own != 0 || owner == 0 {
        return connect_to(jobs, id);
    }
    container_id(id).ok()?;
    let socket = connect_within(&jobs.socket(id), Some(OTHERS_ANSWER)).ok()?;
    let peer = nix::sys::socket::getsockopt(&socket, PeerCredentials).ok()?;
    (peer.uid() == owner).then_some(socket)
}
