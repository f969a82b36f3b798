//! An image becomes the root of environments: mounted by the kernel for root,
//! through FUSE for a user, unpacked on the node where neither works.

pub mod ahead;
pub mod unpacked;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use crate::image::import::{self, Stored};
use crate::image::manifest::Platform;
use crate::image::merge::Bounds;
use crate::image::site::Site;
use crate::image::store::{Accounts, Flat};
use crate::image::{Digest, Image, Reference, Store, bundle, registry, trust};
use crate::kernel::image_mount::{self, NotMounted};
use crate::problem::{Problem, Problems};
use crate::record::base;
use crate::record::job::Jobs;
use crate::request;

/// An image as an environment's root.
pub struct Ready {
    pub image: Image,
    /// The mount, attached nowhere, if it is one.
    pub handed: Option<OwnedFd>,
    /// What keeps an unpacked image from being removed, if it is one.
    pub held: Option<OwnedFd>,
    /// Where it is mounted for all environments of this user, if it is.
    pub mount: Option<PathBuf>,
}

/// How an image becomes a root on this node, for this caller.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    Kernel,
    Fuse { program: PathBuf, unmount: PathBuf },
    Unpack { why: String },
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kernel => f.write_str("mounted by the kernel through a loop device"),
            Self::Fuse { program, .. } => {
                write!(f, "mounted through FUSE by {}", program.display())
            }
            Self::Unpack { why } => write!(f, "unpacked on this node, since {why}"),
        }
    }
}

/// How long the kernel may take to let a loop device go whose last mount went
/// with its namespace.
const SETTLING: Duration = Duration::from_secs(1);

/// The name by which environments of an image are known.
pub fn name_of(wanted: &str) -> String {
    match wanted.parse::<Reference>() {
        Ok(reference) if reference.digest.is_some() => reference.to_string(),
        Ok(reference) => reference.stored_name(),
        Err(_) => wanted.to_owned(),
    }
}

struct Found {
    store: Store,
    stored: Stored,
    bounds: Bounds,
    way: Way,
}

/// # Arguments
/// * `warn` - told before something is fetched; without it nothing is
fn find(wanted: &str, warn: Option<&dyn Fn(&str)>) -> Result<Found, Problem> {
    let reference: Reference = wanted.parse()?;
    let site = request::site::load()?;
    let limits = Site(site.images.clone());
    let store = Store::of_caller(&limits)?;
    let (reference, manifest) = locate(&store, &site, reference, warn)?;
    // The name and who signed it are looked at again at every use.
    trust::require(&store, trust::of_caller(&site), &reference, &manifest)?;
    let demands = trust::of_caller(&site);
    let demanded = reference.digest.is_some() || trust::signers(demands, &reference).is_some();
    let store = if demanded { store.strict() } else { store };
    let stored = Stored::read(&store, &manifest)?;
    let way = if by_root() { Way::Kernel } else { fuse() };
    Ok(Found { store, stored, bounds: Bounds::of(&limits), way })
}

/// An image of the stores by its name, or by the one that the site gives to
/// names without a registry: from there it is fetched if it must be, and from
/// nowhere else.
fn locate(
    store: &Store,
    site: &request::site::Site,
    reference: Reference,
    warn: Option<&dyn Fn(&str)>,
) -> Result<(Reference, Digest), Problem> {
    let absent = match store.resolve(&reference) {
        Ok(found) => return Ok((reference, found.manifest)),
        Err(problem) => problem,
    };
    if reference.registry.is_some() || site.images.unqualified.is_none() {
        return Err(absent);
    }
    let full = registry::qualify(&reference, site)?;
    if let Ok(found) = store.resolve(&full) {
        return Ok((full, found.manifest));
    }
    let Some(warn) = warn else { return Err(absent) };
    warn(&format!("image {reference} is in no store here; fetching {full}, as the site says"));
    let wanted =
        registry::Pull { reference: full.clone(), platform: Platform::own(), plain_http: false };
    let pulled = registry::pull(store, site, &wanted, &registry::Progress::new())?;
    Ok((full, pulled.manifest))
}

/// Root whose mounts the kernel takes.
fn by_root() -> bool {
    let own = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let all = own.split_whitespace().eq(["0", "0", "4294967295"]);
    nix::unistd::geteuid().is_root() && all
}

/// What FUSE needs, or what of it is missing.
fn fuse() -> Way {
    let unpack = |why: &str| Way::Unpack { why: why.to_owned() };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let find = |names: [&str; 2]| {
        let mut places = names.iter().flat_map(|name| {
            std::env::split_paths(&path).map(move |dir| dir.join(name)).collect::<Vec<_>>()
        });
        places.find(|path| path.is_file())
    };
    let Some(program) = find(["squashfuse_ll", "squashfuse"]) else {
        return unpack("squashfuse is not installed");
    };
    let Some(unmount) = find(["fusermount3", "fusermount"]) else {
        return unpack("fusermount3 is not installed");
    };
    match OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Way::Fuse { program, unmount },
        Err(e) => unpack(&format!("/dev/fuse cannot be opened: {e}")),
    }
}

/// The lines of an explanation.
///
/// # Errors
/// There is no such image.
pub fn explain(wanted: &str) -> Result<(Image, Vec<String>), Problems> {
    let found = find(wanted, None)?;
    let line = format!("image {wanted} ({}): {}", found.stored.digest, found.way);
    let root = PathBuf::from("/proc/self/fd/IMAGE");
    let accounts = found.store.flat(&found.stored.digest).and_then(|flat| flat.accounts);
    Ok((described(wanted, &found.stored, accounts, root), vec![line]))
}

/// The last parts of all names in an image.
///
/// # Errors
/// There is no such image, or it is damaged.
pub fn file_names(wanted: &str) -> Result<Vec<String>, Problem> {
    let found = find(wanted, None)?;
    let (_, tree) = import::tree_of(&found.store, &found.stored, found.bounds, &|_| {})?;
    let last = |path: &[u8]| {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        String::from_utf8_lossy(name).into_owned()
    };
    Ok(tree.paths().map(|path| last(path.bytes())).collect())
}

/// Makes an image usable as a root.
///
/// # Arguments
/// * `fetch` - whether one that is in no store here may come from a registry,
///   if the site has one for names without
///
/// # Errors
/// There is none of that name, or it can be neither mounted nor unpacked.
pub fn acquire(
    base: &Path,
    id: &str,
    wanted: &str,
    fetch: bool,
    warn: &dyn Fn(&str),
) -> Result<Ready, Problems> {
    let found = find(wanted, fetch.then_some(warn))?;
    let flat = import::complete(&found.store, &found.stored.digest, found.bounds, &|_| {});
    let why = match (&found.way, flat) {
        (Way::Kernel, Ok(flat)) => match by_kernel(base, &found.store, &flat)? {
            Ok(mount) => return Ok(ready_mount(wanted, &found.stored, flat.accounts, mount)),
            Err(why) => format!("the kernel mounts no squashfs here ({why})"),
        },
        (Way::Fuse { program, unmount }, Ok(flat)) => {
            match by_fuse(base, id, &found.store, &flat, (program, unmount))? {
                Ok(mount) => {
                    let root = mount.join("root");
                    let image = described(wanted, &found.stored, flat.accounts, root);
                    return Ok(Ready { image, handed: None, held: None, mount: Some(mount) });
                }
                Err(why) => why,
            }
        }
        (Way::Unpack { why }, _) => why.clone(),
        // No mksquashfs where the job runs: the layers will do.
        (_, Err(problem)) => problem.message,
    };
    let (dir, held) = unpacked::acquire(&found, &why, warn)?;
    if !by_root() {
        let image = described(wanted, &found.stored, None, dir);
        return Ok(Ready { image, handed: None, held: Some(held), mount: None });
    }
    // Users may not look into root's cache, so they get a mount of it.
    let mount = image_mount::mount_directory(&dir)
        .map_err(|e| Problem::kernel(format!("{}: {e}", dir.display())))?;
    Ok(Ready { held: Some(held), ..ready_mount(wanted, &found.stored, None, mount) })
}

fn ready_mount(wanted: &str, stored: &Stored, accounts: Option<Accounts>, mount: OwnedFd) -> Ready {
    let root = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
    let image = described(wanted, stored, accounts, root);
    Ready { image, handed: Some(mount), held: None, mount: None }
}

/// # Arguments
/// * `accounts` - the image's, where they are known without reading it
fn described(wanted: &str, stored: &Stored, accounts: Option<Accounts>, root: PathBuf) -> Image {
    let accounts = accounts.unwrap_or_else(|| Accounts {
        passwd: bundle::account_file(&root, "passwd"),
        group: bundle::account_file(&root, "group"),
    });
    Image {
        name: name_of(wanted),
        digest: Some(stored.digest.to_string()),
        passwd: accounts.passwd,
        group: accounts.group,
        env: stored.config.env.clone(),
        root,
    }
}

type Mounted<T> = Result<Result<T, String>, Problem>;

/// The outer error ends the start; the inner one says why another way must
/// be taken.
fn by_kernel(base: &Path, store: &Store, flat: &Flat) -> Mounted<OwnedFd> {
    let places = base.join("images");
    base::own_directory(&places, 0o700, 0)?;
    let file = owned_file(store, &flat.file)?;
    let lock = places.join(format!("{}.loop", flat.file.hex()));
    let mounted = image_mount::mount_squashfs(&file, &lock);
    Ok(mounted.map_err(|e: NotMounted| e.to_string()))
}

/// The image's file, which nobody but root may be able to change: the kernel
/// would parse, as root, what a user writes meanwhile (CVE-2023-30549). One
/// that others can write is copied into root's own store and checked there.
fn owned_file(store: &Store, digest: &Digest) -> Result<File, Problem> {
    let path = store.blob_path(digest)?;
    let file = store.open_blob(digest)?;
    if only_roots(&file, &path) {
        return Ok(file);
    }
    let own = Store::open(crate::image::site::ROOT_STORE)?;
    let place = own.blob_path(digest).ok().filter(|copy| *copy != path);
    if let Some(copy) = place {
        let file = own.open_blob(digest)?;
        if only_roots(&file, &copy) {
            return Ok(file);
        }
    }
    let mut writer = own.incoming(Some(digest))?;
    if writer.offset() > 0 {
        writer.restart()?;
    }
    let mut source = file;
    std::io::copy(&mut source, &mut writer).map_err(|e| writer.problem(&e))?;
    writer.finish()?;
    own.open_blob(digest)
}

fn only_roots(file: &File, path: &Path) -> bool {
    let kept = |m: &fs::Metadata| m.uid() == 0 && m.mode() & 0o022 == 0;
    let directory = path.parent().and_then(|dir| dir.metadata().ok());
    file.metadata().is_ok_and(|m| m.is_file() && kept(&m))
        && directory.is_some_and(|m| kept(&m))
        && !image_mount::open_for_writing(file)
}

/// One mount for all environments of this user, in the user's runtime
/// directory, which knows who uses it:
/// `images/HEX/root` and `images/HEX/users/ID`.
fn by_fuse(
    base: &Path,
    id: &str,
    store: &Store,
    flat: &Flat,
    (program, unmount): (&Path, &Path),
) -> Mounted<PathBuf> {
    let uid = nix::unistd::geteuid().as_raw();
    let mount = base.join("images").join(flat.file.hex());
    base::own_directory(&mount, 0o700, uid)?;
    let _lock = lock(&mount)?;
    let (root, users) = (mount.join("root"), mount.join("users"));
    base::own_directory(&users, 0o700, uid)?;
    let failed = |e: std::io::Error| Problem::site(format!("{}: {e}", mount.display()));
    File::create(users.join(id)).map_err(failed)?;
    if !is_mounted(&root) {
        // A daemon that was killed leaves a mount that answers nothing.
        quietly(Command::new(unmount).args(["-u", "-z"]).arg(&root));
        base::own_directory(&root, 0o700, uid)?;
        let path = store.blob_path(&flat.file)?;
        let run = Command::new(program)
            .args(["-o", "ro,nosuid,nodev"])
            .arg(&path)
            .arg(&root)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !run.as_ref().is_ok_and(std::process::ExitStatus::success) || !is_mounted(&root) {
            let _ = fs::remove_file(users.join(id));
            give_up(&mount, unmount);
            let how = run.map_or_else(|e| e.to_string(), |status| status.to_string());
            return Ok(Err(format!("{} cannot mount it ({how})", program.display())));
        }
    }
    Ok(Ok(mount))
}

/// Whether something that answers is mounted here.
fn is_mounted(root: &Path) -> bool {
    let (Ok(own), Some(above)) = (root.metadata(), root.parent()) else { return false };
    above.metadata().is_ok_and(|above| above.dev() != own.dev())
}

fn quietly(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn lock(mount: &Path) -> Result<Flock<File>, Problem> {
    let path = mount.join("lock");
    let mut options = OpenOptions::new();
    let failed = |why: String| Problem::site(format!("{}: {why}", path.display()));
    loop {
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = match file {
            // The last user removed the directory, too.
            Err(e) if e.kind() == ErrorKind::NotFound => {
                match DirBuilder::new().mode(0o700).create(mount) {
                    Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                        return Err(failed(e.to_string()));
                    }
                    _ => continue,
                }
            }
            other => other.map_err(|e| failed(e.to_string()))?,
        };
        let held =
            Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| failed(e.desc().into()))?;
        // The last user removes it; then there is another, or none.
        if path.metadata().is_ok_and(|m| held.metadata().is_ok_and(|h| h.ino() == m.ino())) {
            return Ok(held);
        }
    }
}

/// An environment no longer uses a user's mount; with the last one it goes.
pub fn release(mount: &Path, id: &str) {
    let Ok(_lock) = mount.is_dir().then(|| lock(mount)).transpose() else { return };
    let _ = fs::remove_file(mount.join("users").join(id));
    let Way::Fuse { unmount, .. } = fuse() else { return };
    give_up(mount, &unmount);
}

/// Unmounts what nobody uses; with the lock held.
fn give_up(mount: &Path, unmount: &Path) {
    // Not empty: somebody uses it.
    if fs::remove_dir(mount.join("users")).is_err() {
        return;
    }
    let root = mount.join("root");
    if is_mounted(&root) && !quietly(Command::new(unmount).arg("-u").arg(&root)) {
        quietly(Command::new(unmount).args(["-u", "-z"]).arg(&root));
    }
    let _ = fs::remove_dir(&root);
    let _ = fs::remove_file(mount.join("lock"));
    let _ = fs::remove_dir(mount);
}

/// Releases what killed processes have left; gives what went.
///
/// # Arguments
/// * `ended` - whether jobs were ended just now: the kernel takes their mounts
///   away a moment after their processes
pub fn collect(base: &Path, jobs: &Jobs, ended: bool) -> Vec<String> {
    let mut gone = Vec::new();
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    for mount in entries(&base.join("images")).map(|e| e.path()).filter(|p| p.is_dir()) {
        let users: Vec<String> = entries(&mount.join("users"))
            .filter_map(|e| e.file_name().into_string().ok())
            .collect();
        let dead = |id: &&String| !jobs.load(id).is_some_and(|r| r.kept());
        for id in users.iter().filter(dead) {
            // Whoever holds the job's lock is about to make it.
            if let Some(_lock) = jobs.try_lock(id) {
                release(&mount, id);
            }
        }
        if users.is_empty() && mount.is_dir() {
            release(&mount, "");
        }
        if !mount.exists() {
            gone.push(format!("mount of image {}", mount.display()));
        }
    }
    let until = Instant::now() + if ended { SETTLING } else { Duration::ZERO };
    while forget_devices(base) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    gone
}

/// Which loop device an image has matters only while it has one. Tells whether
/// any has.
fn forget_devices(base: &Path) -> bool {
    let mut left = false;
    let entries = fs::read_dir(base.join("images")).into_iter().flatten().flatten();
    for file in entries.map(|e| e.path()).filter(|p| p.is_file()) {
        let number = fs::read_to_string(&file).unwrap_or_default();
        let backing = format!("/sys/block/loop{}/loop/backing_file", number.trim());
        if Path::new(&backing).exists() {
            left = true;
        } else {
            let _ = fs::remove_file(&file);
        }
    }
    left
}
