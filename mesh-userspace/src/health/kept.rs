//! What is known of tasks' health, in a file that the next daemon reads.

use std::{collections::BTreeMap, fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::checks::Kept;

/// Tells one run of the kernel from another: the numbers of namespaces begin anew with it, and so do tasks.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[derive(Debug, Serialize, Deserialize)]
struct File {
    boot: String,
    tasks: BTreeMap<String, Kept>,
}

/// What an earlier daemon has kept, if it is of this run of the kernel.
///
/// # Errors
/// When there is a file that cannot be read.
pub(super) fn read(path: &Path) -> io::Result<BTreeMap<String, Kept>> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        text => text?,
    };
    let file: File = serde_json::from_slice(&text).map_err(io::Error::other)?;
    Ok(if file.boot == boot()? { file.tasks } else { BTreeMap::new() })
}

/// Replaces what is kept in one step. Whether it outlives a failure of the machine is no matter: no task does.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn write(path: &Path, tasks: BTreeMap<String, Kept>) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let text = serde_json::to_vec(&File { boot: boot()?, tasks }).map_err(io::Error::other)?;
    let fresh = path.with_extension("json.new");
    fs::write(&fresh, text)?;
    fs::rename(&fresh, path)
}

fn boot() -> io::Result<String> {
    Ok(fs::read_to_string(BOOT_ID)?.trim().to_owned())
}
