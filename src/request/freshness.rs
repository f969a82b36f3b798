//! The table `[freshness]` of the site's file.

use std::path::PathBuf;

use serde::Deserialize;

use crate::host::node::Kind;

/// What a prolog does with a node that is not as its baseline says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prolog {
    /// It does not look.
    #[default]
    Off,
    /// It fails, so that no job starts there.
    Refuse,
    /// It puts right what it can, and fails if that does not do.
    Repair,
}

/// Some of what can be on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Selection {
    All,
    /// Everything that belongs to a user no job runs as, such as root.
    System,
    Kind(Kind),
}

impl TryFrom<String> for Selection {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match &*text {
            "all" => Ok(Self::All),
            "system" => Ok(Self::System),
            kind => serde_json::from_value(serde_json::Value::String(kind.to_owned()))
                .map(Self::Kind)
                .map_err(|_| format!("{text:?} is no kind of thing that can be left on a node")),
        }
    }
}

/// Uids from one to another, both included: `1000-65533`, or `65536-`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Uids {
    pub first: u32,
    pub last: u32,
}

impl TryFrom<String> for Uids {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no range of uids such as \"1000-65533\" or \"1000-\"");
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let last = if last.is_empty() { Ok(u32::MAX - 1) } else { last.parse() };
        let (first, last) = (first.parse().map_err(|_| wrong())?, last.map_err(|_| wrong())?);
        if first == 0 || first > last {
            return Err(wrong());
        }
        Ok(Self { first, last })
    }
}

/// What the site says about the state of its nodes between jobs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Freshness {
    /// Whether an epilog compares the node with its baseline.
    pub audit: bool,
    pub prolog: Prolog,
    /// Whether an epilog that finds the node dirty takes it out of service.
    pub drain: bool,
    /// Where the baseline is.
    pub baseline: PathBuf,
    /// What an epilog removes of a user who has no other job on the node.
    pub clean: Vec<Selection>,
    /// What is told, and does not make a node dirty.
    pub tolerance: Vec<Selection>,
    /// Uids that jobs run as.
    pub users: Vec<Uids>,
    /// Directories, beside the system's own, that every user can write.
    pub directories: Vec<PathBuf>,
    /// When no job is left on the node: forget what files are in memory, move
    /// free memory together, put settings back to the baseline's.
    pub drop_page_cache: bool,
    pub compact_memory: bool,
    pub reset_settings: bool,
    /// How much less memory than in the baseline may be available, in percent
    /// of all.
    pub memory_percent: u64,
    /// How far the clock may be off, in milliseconds.
    pub clock_ms: u64,
}

impl Default for Freshness {
    fn default() -> Self {
        Self {
            audit: false,
            prolog: Prolog::Off,
            drain: true,
            baseline: PathBuf::from("/var/lib/denovo/baseline.json"),
            clean: Vec::new(),
            tolerance: vec![
                Selection::System,
                Selection::Kind(Kind::Cache),
                Selection::Kind(Kind::Module),
                Selection::Kind(Kind::PageCache),
                Selection::Kind(Kind::Fragmentation),
            ],
            // Without nobody, and the one that stands for no uid at all.
            users: vec![
                Uids { first: 1000, last: 65533 },
                Uids { first: 65536, last: u32::MAX - 1 },
            ],
            directories: Vec::new(),
            drop_page_cache: false,
            compact_memory: false,
            reset_settings: false,
            memory_percent: 10,
            clock_ms: 100,
        }
    }
}

impl Freshness {
    /// Whether jobs run as this uid.
    pub fn is_user(&self, uid: u32) -> bool {
        self.users.iter().any(|r| (r.first..=r.last).contains(&uid))
    }

    /// Whether prolog or epilog has anything to do about it.
    pub fn wanted(&self) -> bool {
        self.audit || self.prolog != Prolog::Off
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::request::site;

    #[test]
    fn the_table_is_read_strictly() {
        let read = |text: &str| site::parse(text, Path::new("/x")).map(|site| site.freshness);
        assert_eq!(read(""), Ok(Freshness::default()));
        let text = "[freshness]\naudit = true\nprolog = \"repair\"\nclean = [\"process\", \"all\"]\nusers = [\"61000-61099\"]\n";
        let table = read(text).unwrap();
        assert_eq!((table.audit, table.prolog), (true, Prolog::Repair));
        assert_eq!(table.clean, [Selection::Kind(Kind::Process), Selection::All]);
        assert!(table.is_user(61099) && !table.is_user(61100));
        for (text, words) in [
            ("[freshness]\naudits = true", "line 2"),
            ("[freshness]\nclean = [\"proces\"]", "no kind"),
            ("[freshness]\nusers = [\"0-10\"]", "no range"),
            ("[freshness]\nusers = [\"9-5\"]", "no range"),
            ("[freshness]\nusers = [\"1000\"]", "no range"),
            ("[freshness]\nbaseline = \"b.json\"", "absolute"),
        ] {
            let error = read(text).unwrap_err().message;
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }

    #[test]
    fn by_default_root_and_nobody_are_no_users() {
        let table = Freshness::default();
        for (uid, expected) in
            [(0, false), (999, false), (1000, true), (65534, false), (70000, true)]
        {
            assert_eq!(table.is_user(uid), expected, "{uid}");
        }
    }
}
