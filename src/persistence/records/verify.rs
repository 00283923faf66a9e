//! An audit of a closed store in a directory: of its files, and of the records in them.

use std::path::Path;

use super::audit::Audit;
use crate::persistence::store::fs::data_dir::lock_read_only;
use crate::persistence::store::fs::files::failed;
use crate::persistence::{Engine, StoreError};

/// Reads all of the closed store in `dir`, of either engine; see
/// [`App::verify`](crate::App::verify).
pub(crate) fn verify_directory(dir: &Path) -> Result<Audit, StoreError> {
    let data_dir = dir.canonicalize().map_err(|e| failed("verify", dir, e))?;
    let _lock = lock_read_only(&data_dir)?;
    let engine = Engine::of(&data_dir)?;
    let copy = engine.copy_closed(&data_dir)?;
    let mut audit = Audit::default();
    if let Err(error) = examine(engine, copy.path(), &mut audit) {
        audit.fail(&error);
        audit.find(data_dir.display().to_string(), "its records were not read");
    }
    let (from, to) = (
        copy.path().display().to_string(),
        data_dir.display().to_string(),
    );
    for finding in &mut audit.findings {
        finding.place = finding.place.replace(&from, &to);
        finding.what = finding.what.replace(&from, &to);
    }
    Ok(audit)
}

/// Audits the log; then, if the store can be opened, the records.
fn examine(engine: Engine, data_dir: &Path, audit: &mut Audit) -> Result<(), StoreError> {
    let (log, inspected) = engine.inspect_log(data_dir);
    (audit.segments, audit.frames) = (log.segments, log.frames);
    log.findings
        .into_iter()
        .for_each(|finding| audit.add(finding));
    inspected?;
    let store = engine.open(data_dir)?;
    let _ = audit.read(&*store);
    Ok(())
}
