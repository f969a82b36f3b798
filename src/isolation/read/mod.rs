//! The channels, by subject, and what reading them has in common.

mod activity;
mod clocks;
mod files;
mod identity;
mod ipc;
mod limits;
mod memory;
mod net;
mod sequences;
mod tasks;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use super::channel::{Channel, Look, Reading};
pub use identity::mounted;
pub use net::ports;

/// Every channel, in the order of a report.
pub fn channels() -> impl Iterator<Item = &'static Channel> {
    let all: [&[Channel]; 10] = [
        clocks::CHANNELS,
        identity::CHANNELS,
        activity::CHANNELS,
        memory::CHANNELS,
        tasks::CHANNELS,
        files::CHANNELS,
        ipc::CHANNELS,
        net::CHANNELS,
        limits::CHANNELS,
        sequences::CHANNELS,
    ];
    all.into_iter().flatten()
}

/// Reads each once; what is not there is left out.
pub fn all(look: &Look) -> BTreeMap<String, Reading> {
    let read = |channel: &Channel| (channel.read)(look).or_else(|| failure(channel.path));
    channels().filter_map(|channel| Some((channel.name.to_owned(), read(channel)?))).collect()
}

/// Why a channel's file, or the directory of its files, cannot be read.
fn failure(path: &str) -> Option<Reading> {
    let path = word(path, 0)?.trim_end_matches(',').split('*').next()?;
    path.starts_with('/').then_some(())?;
    let tried = fs::metadata(path).and_then(|meta| match meta.is_dir() {
        true => fs::read_dir(path).map(drop),
        false => File::open(path)?.read(&mut [0]).map(drop),
    });
    Some(Reading::Failed { errno: tried.err()?.raw_os_error()? })
}

/// Most of a file that is looked at, in bytes.
const MOST: u64 = 1 << 20;

/// A file's text; `None` where it is empty, as under a mask, or cannot be read.
fn text(path: impl AsRef<Path>) -> Option<String> {
    text_of(path, MOST)
}

fn text_of(path: impl AsRef<Path>, most: u64) -> Option<String> {
    let mut bytes = Vec::with_capacity(16 << 10);
    File::open(path).ok()?.take(most).read_to_end(&mut bytes).ok()?;
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

/// The same as a reading, of a length that can be handed on.
fn contents(path: &str) -> Option<Reading> {
    let text = text(path)?;
    let short: String = text.trim_end().chars().take(4096).collect();
    Some(Reading::Text(short))
}

fn number(n: impl Into<f64>) -> Option<Reading> {
    Some(Reading::Number(n.into()))
}

/// Whole numbers of the kernel's, which are below 2^53 in all that is read here.
fn count(n: u64) -> Option<Reading> {
    Some(Reading::Number(n as f64))
}

/// The n-th word, from 0.
fn word(text: &str, n: usize) -> Option<&str> {
    text.split_ascii_whitespace().nth(n)
}

fn word_number(text: &str, n: usize) -> Option<f64> {
    word(text, n)?.parse().ok()
}

/// The first number after `key` on the first line that starts with it.
fn value(text: &str, key: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.trim_start().strip_prefix(key))?;
    word_number(rest.trim_start_matches([':', ' ', '\t', '"']), 0)
}

/// The sum of every whole number in a text.
fn sum(text: &str) -> f64 {
    text.split_ascii_whitespace().filter_map(|word| word.parse::<f64>().ok()).sum()
}

/// The names in a directory, sorted; `None` where it cannot be listed.
fn names(dir: impl AsRef<Path>) -> Option<Vec<String>> {
    let entries = fs::read_dir(dir).ok()?;
    let mut all: Vec<String> =
        entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    all.sort();
    all.truncate(4096);
    Some(all)
}

fn listing(dir: &str) -> Option<Reading> {
    names(dir).map(Reading::List)
}

/// A file of each entry of a directory, as `NAME: TEXT`.
fn each(dir: &str, file: &str) -> Option<Vec<String>> {
    let read = |name: &String| {
        let text = text(Path::new(dir).join(name).join(file))?;
        Some(format!("{name}: {}", text.trim_end()))
    };
    Some(names(dir)?.iter().filter_map(read).collect())
}

/// The numbers of such files, added up.
fn each_sum(dir: &str, file: &str) -> Option<Reading> {
    let all = each(dir, file)?;
    (!all.is_empty()).then_some(())?;
    number(all.iter().map(|line| sum(line.split_once(": ").map_or("", |(_, t)| t))).sum::<f64>())
}

/// The lines of a file after its heading; `None` where not even that is there.
fn lines_after(path: &str, heading: usize) -> Option<Vec<String>> {
    let clip = |line: &str| line.chars().take(200).collect();
    Some(text(path)?.lines().skip(heading).map(clip).take(4096).collect())
}
