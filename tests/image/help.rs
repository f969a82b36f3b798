//! A shell with a store of its own, and a root that is worth packing.

use std::ops::Deref;
use std::path::PathBuf;
use std::process::Command;

use crate::common::{Case, Ran, binary, is_root, skip};

/// A test's own node as far as images go: `$D` is denovo with a base of its
/// own, `$W` a directory to work in, the store is nobody else's.
pub struct Shop {
    case: Case,
    /// What runs in the shell, where the tests run as root.
    user: Option<u32>,
}

impl Deref for Shop {
    type Target = Case;

    fn deref(&self) -> &Case {
        &self.case
    }
}

/// Mounts of this shell's own: root's store below the case's directory, and
/// for a user /dev/fuse as most nodes have it.
const SETTING: &str = r#"
mkdir -p "$W/var" /var/lib/denovo /var/cache/denovo
mkdir -p "$W/var/lib" "$W/var/cache"
mount --bind "$W/var/lib" /var/lib/denovo
mount --bind "$W/var/cache" /var/cache/denovo
if [ "$FUSE" = yes ]; then
    mkdir -p "$W/dev"; mount -t tmpfs -o mode=755 dev "$W/dev"
    mknod -m 666 "$W/dev/fuse" c 10 229; chmod 666 "$W/dev/fuse"; mount --bind "$W/dev/fuse" /dev/fuse
    # fusermount3 serves no user without a name.
    { cat /etc/passwd; echo "dntuser:x:$UID_:$UID_::/:/bin/sh"; } >"$W/passwd"; mount --bind "$W/passwd" /etc/passwd
fi
"#;

impl Shop {
    pub fn root(test: &str) -> Option<Self> {
        Case::root(test).filter(|_| has_tools(test)).map(|case| Self { case, user: None })
    }

    /// As a user; only root can give each test a store and a device of its own.
    pub fn user(test: &str) -> Option<Self> {
        let case =
            Some(()).filter(|()| is_root() || unprivileged(test)).and_then(|()| Case::user(test));
        let case = case.filter(|_| has_tools(test))?;
        Some(Self { user: case.user, case })
    }

    pub fn work(&self) -> PathBuf {
        self.dir.clone()
    }

    /// A script; `with` are further variables.
    pub fn shell(&self, with: &[(&str, &str)], script: &str) -> Command {
        let mut command = Command::new("unshare");
        let drop = match self.user {
            Some(uid) => format!("setpriv --reuid {uid} --regid {uid} --clear-groups"),
            None => String::new(),
        };
        let setting = format!("set -e\n{SETTING}\ncd \"$W\"\nexec {drop} bash -ec \"$SCRIPT\"");
        command.args(["-m", "--propagation", "slave", "bash", "-c", &setting]);
        let denovo = binary(self.user.is_some()).display().to_string();
        let base = self.dir.join("base").display().to_string();
        let runs = format!(
            "d() {{ \"{denovo}\" --root \"{base}\" \"$@\"; }}\nrun() {{ d job run --no-home --cwd / \"$@\"; }}\n"
        );
        command
            .env("UID_", self.uid().to_string())
            .env("W", &self.dir)
            .env("SCRIPT", format!("{runs}{script}"));
        command.env("HOME", self.dir.join("home")).env_remove("XDG_DATA_HOME");
        command.env_remove("XDG_RUNTIME_DIR").env("FUSE", "no").envs(with.iter().copied());
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(std::process::Stdio::null());
        command
    }

    pub fn run(&self, script: &str) -> Ran {
        self.finish(self.shell(&[], script))
    }

    /// The script must succeed; gives what it says.
    pub fn see(&self, script: &str) -> String {
        self.run(script).expect(0, script).out()
    }
}

fn unprivileged(test: &str) -> bool {
    skip(test, "needs root, who gives each test a store and a device of its own");
    false
}

fn has_tools(test: &str) -> bool {
    for tool in
        ["mksquashfs", "sqfs2tar", "umoci", "skopeo", "squashfuse_ll", "fusermount3", "setcap"]
    {
        let found = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|dir| std::path::Path::new(dir).join(tool).exists());
        if !found {
            skip(test, &format!("{tool} is not installed (scripts/setup test)"));
            return false;
        }
    }
    true
}

/// Makes `$W/tree`: of each kind something, and busybox to run.
pub const TREE: &str = r#"
mkdir -p "$W/tree/bin" "$W/tree/etc" "$W/tree/data/deep" "$W/tree/tmp"; cd "$W/tree"
cp /bin/busybox bin/busybox; for a in sh cat ls id stat sleep touch grep; do ln -s busybox bin/$a; done
echo 'root:x:0:0:root:/:/bin/sh' >etc/passwd; echo image >etc/name
ln bin/busybox data/hard; ln -s ../etc/name data/soft; ln -s /nowhere data/dangling
truncate -s 3M data/sparse; printf end >>data/sparse
long=$(printf 'n%.0s' $(seq 200)); mkdir data/$long; echo long >data/$long/$long
chmod 1777 tmp; mkdir data/suid; cp bin/busybox data/suid/id; chmod 4755 data/suid/id
printf x >data/user; mkfifo data/fifo; chmod 700 data/deep
if [ "$(id -u)" = 0 ]; then chown 1234:4321 data/user; cp bin/busybox data/cap; setcap cap_net_raw+ep data/cap; fi
find . -exec touch -h -d @1700000000 {} +
cd "$W"
"#;

/// Prints a tar's entries in one order, without what tools differ in.
pub const LISTING: &str = r#"
# Which of several names has the data, and which is a link to it, is the archive's own affair.
listing() { tar --numeric-owner --full-time -tvf "$1" | grep -v ' \./$' | sed 's| \./| |; s|/$||; s| link to .*||; s|^h|-|' | awk '{ if ($1 ~ /^-/) $3 = ""; print }' | LC_ALL=C sort -k 5; }
"#;
