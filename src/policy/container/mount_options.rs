//! The words of `mounts[].options` (OCI config.md, "Linux mount options").

use libc::{
    MS_DIRSYNC, MS_I_VERSION, MS_LAZYTIME, MS_MANDLOCK, MS_NOATIME, MS_NODEV, MS_NODIRATIME,
    MS_NOEXEC, MS_NOSUID, MS_NOSYMFOLLOW, MS_PRIVATE, MS_RDONLY, MS_REC, MS_RELATIME, MS_REMOUNT,
    MS_SHARED, MS_SILENT, MS_SLAVE, MS_STRICTATIME, MS_SYNCHRONOUS, MS_UNBINDABLE,
};

use crate::policy::spec::MountAttributes;

/// `MOUNT_ATTR_*` of mount_setattr(2).
mod attr {
    pub const RDONLY: u64 = 0x1;
    pub const NOSUID: u64 = 0x2;
    pub const NODEV: u64 = 0x4;
    pub const NOEXEC: u64 = 0x8;
    /// The bits of the access time mode, which is one value, not flags.
    pub const ATIME: u64 = 0x70;
    pub const RELATIME: u64 = 0x00;
    pub const NOATIME: u64 = 0x10;
    pub const STRICTATIME: u64 = 0x20;
    pub const NODIRATIME: u64 = 0x80;
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// What the options of one mount add up to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// `bind` (false) or `rbind` (true).
    pub bind: Option<bool>,
    /// `MS_*` for mount(2) of a new file system.
    pub flags: u64,
    /// The same as far as it belongs to the mount itself and not to the file
    /// system, and what the recursive options say.
    pub attributes: MountAttributes,
    pub propagation: Vec<u64>,
    pub copy_up: bool,
    /// `idmap` (false) or `ridmap` (true).
    pub id_map: Option<bool>,
    /// Options that only a file system as a whole can have, by name.
    pub whole: Vec<String>,
    /// What mount(2) takes as data: all that is none of the above.
    pub data: Vec<String>,
}

/// What an option does to the attributes of a mount.
#[derive(Clone, Copy)]
enum Change {
    Nothing,
    Set(u64),
    Clear(u64),
    /// mount_setattr(2) wants the whole mask cleared for any new mode.
    Atime(u64),
}

use Change::{Atime, Clear, Nothing, Set};

/// Name, `MS_*` flag, whether it takes the flag away, and the attribute.
/// Those with an attribute exist recursively too, with an `r` in front.
const FLAGS: &[(&str, u64, bool, Change)] = &[
    ("async", MS_SYNCHRONOUS, true, Nothing),
    ("atime", MS_NOATIME, true, Atime(attr::RELATIME)),
    ("defaults", 0, false, Nothing),
    ("dev", MS_NODEV, true, Clear(attr::NODEV)),
    ("diratime", MS_NODIRATIME, true, Clear(attr::NODIRATIME)),
    ("dirsync", MS_DIRSYNC, false, Nothing),
    ("exec", MS_NOEXEC, true, Clear(attr::NOEXEC)),
    ("iversion", MS_I_VERSION, false, Nothing),
    ("lazytime", MS_LAZYTIME, false, Nothing),
    ("loud", MS_SILENT, true, Nothing),
    ("mand", MS_MANDLOCK, false, Nothing),
    ("noatime", MS_NOATIME, false, Atime(attr::NOATIME)),
    ("nodev", MS_NODEV, false, Set(attr::NODEV)),
    ("nodiratime", MS_NODIRATIME, false, Set(attr::NODIRATIME)),
    ("noexec", MS_NOEXEC, false, Set(attr::NOEXEC)),
    ("noiversion", MS_I_VERSION, true, Nothing),
    ("nolazytime", MS_LAZYTIME, true, Nothing),
    ("nomand", MS_MANDLOCK, true, Nothing),
    ("norelatime", MS_RELATIME, true, Atime(attr::RELATIME)),
    ("nostrictatime", MS_STRICTATIME, true, Atime(attr::RELATIME)),
    ("nosuid", MS_NOSUID, false, Set(attr::NOSUID)),
    ("nosymfollow", MS_NOSYMFOLLOW, false, Set(attr::NOSYMFOLLOW)),
    ("relatime", MS_RELATIME, false, Atime(attr::RELATIME)),
    ("remount", MS_REMOUNT, false, Nothing),
    ("ro", MS_RDONLY, false, Set(attr::RDONLY)),
    ("rw", MS_RDONLY, true, Clear(attr::RDONLY)),
    ("silent", MS_SILENT, false, Nothing),
    ("strictatime", MS_STRICTATIME, false, Atime(attr::STRICTATIME)),
    ("suid", MS_NOSUID, true, Clear(attr::NOSUID)),
    ("symfollow", MS_NOSYMFOLLOW, true, Clear(attr::NOSYMFOLLOW)),
    ("sync", MS_SYNCHRONOUS, false, Nothing),
];

/// The words for propagation, which `rootfsPropagation` takes too.
const PROPAGATION: &[(&str, u64)] = &[
    ("private", MS_PRIVATE),
    ("rprivate", MS_PRIVATE | MS_REC),
    ("rshared", MS_SHARED | MS_REC),
    ("rslave", MS_SLAVE | MS_REC),
    ("runbindable", MS_UNBINDABLE | MS_REC),
    ("shared", MS_SHARED),
    ("slave", MS_SLAVE),
    ("unbindable", MS_UNBINDABLE),
];

/// The `MS_*` flags of a propagation by its name.
pub(super) fn propagation(name: &str) -> Option<u64> {
    PROPAGATION.iter().find(|(known, _)| *known == name).map(|(_, flags)| *flags)
}

/// Words that are neither flags nor propagation.
const OTHERS: &[&str] = &["bind", "idmap", "rbind", "ridmap", "tmpcopyup"];

/// Every word that is an option of denovo's and not of a file system.
pub(super) fn names() -> Vec<String> {
    let flags = FLAGS.iter().map(|(name, ..)| (*name).to_owned());
    let recursive = FLAGS.iter().map(|(name, ..)| format!("r{name}"));
    let others = PROPAGATION.iter().map(|(name, _)| *name).chain(OTHERS.iter().copied());
    let mut all: Vec<String> = flags.chain(recursive).chain(others.map(str::to_owned)).collect();
    // What is not taken is data for the file system.
    all.retain(|name| parse(std::slice::from_ref(name)).data.is_empty());
    all.sort_unstable();
    all.dedup();
    all
}

/// Reads `options` in order; where two contradict, the later one counts.
pub(super) fn parse(options: &[String]) -> Options {
    let mut parsed = Options::default();
    for option in options {
        parsed.take(option);
    }
    parsed
}

impl Options {
    fn take(&mut self, option: &str) {
        match option {
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.id_map = Some(self.id_map.unwrap_or(false)),
            "ridmap" => self.id_map = Some(true),
            _ => {
                if let Some(flags) = propagation(option) {
                    self.propagation.push(flags);
                } else if !self.flag(option) && !self.recursive(option) {
                    self.data.push(option.to_owned());
                }
            }
        }
    }

    fn flag(&mut self, option: &str) -> bool {
        let Some((_, flag, cleared, change)) = FLAGS.iter().find(|(name, ..)| *name == option)
        else {
            return false;
        };
        if *cleared {
            self.flags &= !flag;
        } else {
            self.flags |= flag;
        }
        if matches!(change, Nothing) && !*cleared && *flag & !(MS_REMOUNT | MS_SILENT) != 0 {
            self.whole.push(option.to_owned());
        }
        apply(*change, &mut self.attributes.set, &mut self.attributes.clear);
        true
    }

    fn recursive(&mut self, option: &str) -> bool {
        let plain = option.strip_prefix('r').unwrap_or_default();
        let known = |(name, _, _, change): &&(&str, u64, bool, Change)| {
            *name == plain && !matches!(change, Nothing)
        };
        let Some((_, _, _, change)) = FLAGS.iter().find(known) else {
            return false;
        };
        let MountAttributes { set_recursive, clear_recursive, .. } = &mut self.attributes;
        apply(*change, set_recursive, clear_recursive);
        true
    }
}

fn apply(change: Change, set: &mut u64, clear: &mut u64) {
    match change {
        Nothing => {}
        Set(bits) => {
            *set |= bits;
            *clear &= !bits;
        }
        Clear(bits) => {
            *set &= !bits;
            *clear |= bits;
        }
        Atime(mode) => {
            *set = *set & !attr::ATIME | mode;
            *clear |= attr::ATIME;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &str) -> Options {
        let options: Vec<String> = options.split_whitespace().map(String::from).collect();
        parse(&options)
    }

    /// The flags of <linux/mount.h>, written out.
    #[test]
    fn each_option_is_its_flag() {
        for (options, flags, set, clear) in [
            ("ro", 1, 0x1, 0),
            ("ro rw", 0, 0, 0x1),
            ("rw ro", 1, 0x1, 0),
            ("nosuid", 2, 0x2, 0),
            ("nosuid suid", 0, 0, 0x2),
            ("nodev", 4, 0x4, 0),
            ("nodev dev", 0, 0, 0x4),
            ("noexec", 8, 0x8, 0),
            ("noexec exec", 0, 0, 0x8),
            ("sync", 16, 0, 0),
            ("sync async", 0, 0, 0),
            ("remount", 32, 0, 0),
            ("mand", 64, 0, 0),
            ("mand nomand", 0, 0, 0),
            ("dirsync", 128, 0, 0),
            ("nosymfollow", 256, 0x20_0000, 0),
            ("nosymfollow symfollow", 0, 0, 0x20_0000),
            ("noatime", 1024, 0x10, 0x70),
            ("noatime atime", 0, 0, 0x70),
            ("nodiratime", 2048, 0x80, 0),
            ("nodiratime diratime", 0, 0, 0x80),
            ("silent", 1 << 15, 0, 0),
            ("silent loud", 0, 0, 0),
            ("relatime", 1 << 21, 0, 0x70),
            ("relatime norelatime", 0, 0, 0x70),
            ("iversion", 1 << 23, 0, 0),
            ("iversion noiversion", 0, 0, 0),
            ("strictatime", 1 << 24, 0x20, 0x70),
            ("strictatime noatime", 1 << 24 | 1024, 0x10, 0x70),
            ("strictatime nostrictatime", 0, 0, 0x70),
            ("lazytime", 1 << 25, 0, 0),
            ("lazytime nolazytime", 0, 0, 0),
            ("defaults", 0, 0, 0),
        ] {
            let parsed = parsed(options);
            assert_eq!(parsed.flags, flags, "{options}");
            assert_eq!((parsed.attributes.set, parsed.attributes.clear), (set, clear), "{options}");
            assert_eq!(parsed.data, Vec::<String>::new(), "{options}");
        }
    }

    #[test]
    fn recursive_options() {
        for (options, set, clear) in [
            ("rro", 0x1, 0),
            ("rrw", 0, 0x1),
            ("rnosuid", 0x2, 0),
            ("rsuid", 0, 0x2),
            ("rnodev", 0x4, 0),
            ("rdev", 0, 0x4),
            ("rnoexec", 0x8, 0),
            ("rexec", 0, 0x8),
            ("rnodiratime", 0x80, 0),
            ("rdiratime", 0, 0x80),
            ("rrelatime", 0, 0x70),
            ("rnorelatime", 0, 0x70),
            ("rnoatime", 0x10, 0x70),
            ("ratime", 0, 0x70),
            ("rstrictatime", 0x20, 0x70),
            ("rnostrictatime", 0, 0x70),
            ("rnosymfollow", 0x20_0000, 0),
            ("rsymfollow", 0, 0x20_0000),
            ("rro rrw", 0, 0x1),
        ] {
            let parsed = parsed(options);
            let attributes = MountAttributes {
                set_recursive: set,
                clear_recursive: clear,
                ..MountAttributes::default()
            };
            assert_eq!(parsed, Options { attributes, ..Options::default() }, "{options}");
        }
    }

    #[test]
    fn propagation_keeps_its_order() {
        let parsed = parsed("rslave shared runbindable private");
        let rec = 16384;
        assert_eq!(parsed.propagation, [1 << 19 | rec, 1 << 20, 1 << 17 | rec, 1 << 18]);
        assert_eq!(propagation("rshared"), Some(1 << 20 | rec));
        assert_eq!(propagation("ro"), None);
    }

    #[test]
    fn the_rest() {
        assert_eq!(parsed("bind").bind, Some(false));
        assert_eq!(parsed("rbind bind").bind, Some(true));
        assert!(parsed("tmpcopyup").copy_up);
        assert_eq!(parsed("idmap").id_map, Some(false));
        assert_eq!(parsed("ridmap idmap").id_map, Some(true));
        assert_eq!(
            parsed("mode=755 rsync size=64k r").data,
            ["mode=755", "rsync", "size=64k", "r"]
        );
        assert_eq!(parsed("sync silent remount lazytime").whole, ["sync", "lazytime"]);
    }
}
