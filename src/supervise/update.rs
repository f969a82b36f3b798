//! `update`: new limits for a container that runs.

use std::path::Path;

use super::container::Refusal;
use crate::host::Facts;
use crate::kernel::cgroup;
use crate::plan::cgroup::update;
use crate::problem::{Problem, Problems};
use crate::record::container::{Record, Status, Store};
use crate::request::resources::{Changes, document};

/// What `update` is told beside the id.
pub struct Asked<'a> {
    /// A document of the runtime-spec's `linux.resources`.
    pub text: Option<&'a [u8]>,
    /// Where it comes from, for messages.
    pub name: &'a Path,
    /// What options say, over the document.
    pub changes: &'a Changes,
}

/// The plan of an update.
///
/// # Errors
/// The container has ended; everything that is wrong with the request.
pub fn plan(
    store: &Store,
    id: &str,
    asked: &Asked<'_>,
    warn: &dyn Fn(&str),
) -> Result<(Record, update::Update), Refusal> {
    let record = store.load(id)?;
    let status = store.status(&record);
    if !matches!(status, Status::Created | Status::Running | Status::Paused) {
        return Err(Problem::user(format!(
            "container {id:?} cannot be updated: it is {}",
            status.name()
        ))
        .hint("only a container that runs has limits to change")
        .into());
    }
    let in_force = cgroup::in_force(&record.cgroup);
    let document = document(asked.text, asked.name, asked.changes, &in_force)?;
    let facts = Facts::read()?;
    let checked = crate::policy::container::check_resources(&document, &facts);
    let (limits, warnings) = checked.map_err(with_hints)?;
    warnings.iter().for_each(|text| warn(text));
    let update = update::plan(&limits, &record.cgroup, &in_force, &facts)?;
    Ok((record, update))
}

/// `update`: all that is asked, or nothing.
///
/// # Errors
/// As [`plan`]; the kernel refuses a limit, and what was is in force again.
pub fn update(
    store: &Store,
    id: &str,
    asked: &Asked<'_>,
    warn: &dyn Fn(&str),
) -> Result<(), Refusal> {
    let (mut record, update) = plan(store, id, asked, warn)?;
    cgroup::change(&update.steps).map_err(Problem::from)?;
    if update.groups != record.cgroup {
        // A controller more, whose statistics are now there.
        record.cgroup = update.groups;
        store.save(&record)?;
    }
    Ok(())
}

fn with_hints(problems: Problems) -> Problems {
    let hint =
        "denovo update --help has the options; a document is as linux.resources of config.json";
    let hinted = |problem: Problem| match problem.hint {
        Some(_) => problem,
        None => problem.hint(hint),
    };
    problems.into_iter().map(hinted).collect()
}
