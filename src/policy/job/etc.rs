//! The files of /etc that say who and where one is.

use super::{Case, Person, Source};
use crate::policy::spec::LayeredFile;
use crate::policy::text::CText;

/// Names of this environment and nothing else: made from its seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// machine-id(5): 32 hexadecimal digits.
    pub machine: String,
    /// As /proc/sys/kernel/random/boot_id has it.
    pub boot: String,
}

impl Identity {
    pub fn of(seed: &[u8; 32]) -> Self {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let mut boot: [u8; 16] = [0; 16];
        boot.copy_from_slice(&seed[16..]);
        // A random UUID (RFC 9562, version 4).
        boot[6] = boot[6] & 0x0f | 0x40;
        boot[8] = boot[8] & 0x3f | 0x80;
        let b = hex(&boot);
        Self {
            machine: hex(&seed[..16]),
            boot: format!("{}-{}-{}-{}-{}\n", &b[..8], &b[8..12], &b[12..16], &b[16..20], &b[20..]),
        }
    }
}

/// Entries of the node's /etc that a program may need and that say nothing
/// of the node, its users or its services. A trailing `*` stands for any end.
const SHOWN: &[&str] = &[
    "X11",
    "adduser.conf",
    "alternatives",
    "apparmor.d",
    "apt",
    "bash.bashrc",
    "bash_completion*",
    "bashrc",
    "binfmt.d",
    "bindresvport.blacklist",
    "ca-certificates*",
    "clustershell",
    "cmake",
    "conda",
    "crypto-policies",
    "csh.*",
    "dconf",
    "debconf.conf",
    "debian_version",
    "default",
    "deluser.conf",
    "dictionaries-common",
    "dpkg",
    "emacs",
    "environment",
    "environment-modules",
    "ethertypes",
    "fonts",
    "gai.conf",
    "gdb",
    "glvnd",
    "gnutls",
    "groff",
    "gss",
    "gtk-*",
    "highwayhash",
    "host.conf",
    "hwloc",
    "ImageMagick*",
    "init.d",
    "inputrc",
    "issue*",
    "java*",
    "jupyter",
    "kernel",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "ldap",
    "libaudit.conf",
    "libibverbs.d",
    "libnl*",
    "lmod",
    "locale*",
    "localtime",
    "login.defs",
    "lsb-release",
    "magic*",
    "mailcap*",
    "manpath.config",
    "matplotlibrc",
    "mime.types",
    "modulefiles",
    "modules",
    "mpich*",
    "mpi*",
    "mpv",
    "nanorc",
    "networks",
    "OpenCL",
    "openmpi*",
    "opt",
    "os-release",
    "pam.conf",
    "papersize",
    "perl",
    "pkcs11",
    "pki",
    "pmix*",
    "pnm2ppa.conf",
    "profile",
    "profile.d",
    "protocols",
    "prte*",
    "pulse",
    "python*",
    "R",
    "rdma",
    "rc*.d",
    "redhat-release",
    "rpc",
    "rpm",
    "sane.d",
    "screenrc",
    "security",
    "selinux",
    "services",
    "sgml",
    "shells",
    "skel",
    "ssl",
    "subversion",
    "sysctl.d",
    "system-release*",
    "terminfo",
    "texmf",
    "timezone",
    "tmpfiles.d",
    "tmux.conf",
    "ucf.conf",
    "ucx",
    "udev",
    "update-motd.d",
    "vim",
    "virc",
    "vdpau_wrapper.cfg",
    "vulkan",
    "wgetrc",
    "xattr.conf",
    "xdg",
    "xml",
    "zsh*",
    "zprofile",
    "zshenv",
    "zshrc",
    "julia",
    "gitconfig",
    "ghostscript",
    "gprofng.rc",
    "valgrind",
];

fn shown(name: &str) -> bool {
    SHOWN.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => match pattern.split_once('*') {
            Some((start, end)) => name.starts_with(start) && name.ends_with(end),
            None => name == *pattern,
        },
    })
}

/// Names of the node's /etc that are hidden: what is not on the list, and
/// what not everybody may read.
pub(super) fn hidden(etc: &[String], private: &[String]) -> Vec<CText> {
    etc.iter()
        .filter(|n| !shown(n) || private.contains(n))
        .map(|n| CText::lossy(n.as_str()))
        .collect()
}

/// The environment's own files of /etc.
pub(super) fn files(case: &Case<'_>) -> Vec<LayeredFile> {
    let name = case.hostname();
    let (passwd, group) = match case.source {
        Source::Host(_) => (FRESH_PASSWD, FRESH_GROUP),
        Source::Bundle { passwd, group, .. } => (&passwd[..], &group[..]),
    };
    let file = |name: &str, contents: String| LayeredFile {
        name: CText::lossy(name),
        contents: contents.into_bytes(),
        mode: 0o644,
    };
    let machine = Identity::of(&case.seed).machine;
    let mut files = vec![
        file("hostname", format!("{name}\n")),
        file(
            "hosts",
            format!(
                "127.0.0.1\tlocalhost\n127.0.1.1\t{name}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
            ),
        ),
        file("machine-id", format!("{machine}\n")),
        file("passwd", with_accounts(with_user(passwd, case.person), case)),
        file("group", with_groups(group, case.person)),
    ];
    // With the node's network names are found as on the node.
    files.extend(case.resolver.map(|text| file("resolv.conf", text.to_owned())));
    if matches!(case.source, Source::Host(_)) {
        files.push(file("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\nethers: files\nrpc: files\n".into()));
        files.push(file("fstab", String::new()));
    }
    files
}

/// The accounts that a scheduler's commands look for.
fn with_accounts(mut passwd: String, case: &Case<'_>) -> String {
    let more = case.request.granted.iter().flat_map(|g| &g.accounts);
    for line in more {
        let name = line.split(':').next().unwrap_or_default();
        if !passwd.lines().any(|l| l.split(':').next() == Some(name)) {
            passwd.push_str(line);
            passwd.push('\n');
        }
    }
    passwd
}

/// Accounts of a system that nobody was added to.
const FRESH_PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
bin:x:2:2:bin:/bin:/usr/sbin/nologin\n\
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const FRESH_GROUP: &str = "root:x:0:\ndaemon:x:1:\nbin:x:2:\ntty:x:5:\nnogroup:x:65534:\n";

fn has_id(table: &str, id: u32) -> bool {
    let id = id.to_string();
    table.lines().any(|line| line.split(':').nth(2) == Some(&id))
}

fn has_name(table: &str, name: &str) -> bool {
    table.lines().any(|line| line.split(':').next() == Some(name))
}

fn with_user(table: &str, person: &Person) -> String {
    let mut table = ended(table);
    if !has_id(&table, person.uid) {
        let home = person.home.as_ref().map_or("/".into(), |h| h.display().to_string());
        let (name, uid, gid) = (&person.name, person.uid, person.gid);
        table.push_str(&format!("{name}:x:{uid}:{gid}:{name}:{home}:/bin/sh\n"));
    }
    table
}

fn with_groups(table: &str, person: &Person) -> String {
    let mut table = ended(table);
    for gid in std::iter::once(&person.gid).chain(&person.groups) {
        if !has_id(&table, *gid) {
            let known = person.group_names.iter().find(|(known, _)| known == gid);
            let name = known.map(|(_, name)| name.clone()).filter(|name| !has_name(&table, name));
            let name = name.unwrap_or_else(|| match *gid == person.gid {
                true if !has_name(&table, &person.name) => person.name.clone(),
                _ => format!("group{gid}"),
            });
            table.push_str(&format!("{name}:x:{gid}:\n"));
        }
    }
    table
}

fn ended(table: &str) -> String {
    let mut table = table.to_owned();
    if !table.is_empty() && !table.ends_with('\n') {
        table.push('\n');
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_state_are_hidden_and_what_programs_need_is_not() {
        let etc: Vec<String> = [
            "shadow",
            "passwd",
            "ssh",
            "munge",
            "machine-id",
            "openmpi",
            "ld.so.cache",
            "python3.11",
            "ssl",
            "sudoers",
            "rc5.d",
        ]
        .map(String::from)
        .to_vec();
        let private = vec!["ssl".to_owned()];
        let hidden: Vec<String> =
            hidden(&etc, &private).iter().map(CText::to_string_lossy).collect();
        assert_eq!(hidden, ["shadow", "passwd", "ssh", "munge", "machine-id", "ssl", "sudoers"]);
    }

    #[test]
    fn ids_are_of_the_right_form_and_depend_on_the_seed() {
        let a = Identity::of(&[0xff; 32]);
        assert_eq!(a.boot, "ffffffff-ffff-4fff-bfff-ffffffffffff\n");
        assert_eq!(a.machine.len(), 32);
        assert_ne!(a, Identity::of(&[1; 32]));
    }

    #[test]
    fn an_account_that_the_image_has_is_left_alone() {
        let person = Person {
            uid: 7,
            gid: 8,
            groups: vec![8, 9],
            group_names: Vec::new(),
            name: "eve".into(),
            home: None,
        };
        assert_eq!(with_user("lp:x:7:7::/:/bin/sh", &person), "lp:x:7:7::/:/bin/sh\n");
        assert_eq!(with_user("", &person), "eve:x:7:8:eve:/:/bin/sh\n");
        assert_eq!(with_groups("g:x:9:", &person), "g:x:9:\neve:x:8:\n");
        // As on the node, unless the image knows another by that name.
        let group_names = vec![(8, "staff".into()), (9, "project".into())];
        let named = Person { group_names, ..person };
        assert_eq!(with_groups("", &named), "staff:x:8:\nproject:x:9:\n");
        let taken = "project:x:5:\nstaff:x:6:\n";
        assert_eq!(with_groups(taken, &named), format!("{taken}eve:x:8:\ngroup9:x:9:\n"));
    }
}
