//! `ps`: the node's own ps(1), for the processes of one container.

use std::process::Command;

use super::control::members;
use crate::problem::Problem;
use crate::record::container::Record;

/// The lines of `ps OPTIONS` that are about the container, after its header.
///
/// # Errors
/// ps is not there, fails, or its output has no column of pids.
pub fn table(record: &Record, options: &[String]) -> Result<Vec<String>, Problem> {
    let pids = members(record)?;
    let default = ["-ef".to_owned()];
    let options = if options.is_empty() { &default[..] } else { options };
    let ran = Command::new("ps").args(options).output().map_err(|e| {
        Problem::site(format!("ps: cannot be run: {e}"))
            .hint("install procps, or take --format json, which needs no ps")
    })?;
    let shown = options.join(" ");
    if !ran.status.success() {
        let words = String::from_utf8_lossy(&ran.stderr);
        let words = words.trim().lines().next().unwrap_or_default().to_owned();
        return Err(Problem::user(format!("ps {shown}: {}: {words}", ran.status))
            .hint("what stands after the container's id goes to ps(1) as it is"));
    }
    rows(&String::from_utf8_lossy(&ran.stdout), &pids).ok_or_else(|| {
        Problem::user(format!("ps {shown}: its output has no column PID"))
            .hint("take options that show pids, such as -ef")
    })
}

/// The header and the lines with one of `pids` below its word `PID`.
fn rows(text: &str, pids: &[i32]) -> Option<Vec<String>> {
    let mut lines = text.lines();
    let header = lines.next()?;
    let column = header.split_whitespace().position(|word| word == "PID")?;
    let ours = |line: &&str| {
        let number = line.split_whitespace().nth(column).and_then(|word| word.parse().ok());
        number.is_some_and(|pid: i32| pids.contains(&pid))
    };
    Some([header].into_iter().chain(lines.filter(ours)).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::rows;

    #[test]
    fn lines_are_told_by_the_column_of_pids() {
        let text = "UID          PID    PPID CMD\nroot           7       1 a\nroot           8       7 b 7\n";
        let found = rows(text, &[7]).unwrap();
        assert_eq!(found, ["UID          PID    PPID CMD", "root           7       1 a"]);
        assert_eq!(rows("CMD\nx\n", &[7]), None);
        assert_eq!(rows("", &[7]), None);
    }
}
