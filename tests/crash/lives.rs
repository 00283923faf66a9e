//! The lives of a program that is this test itself: each is killed after a while or left alone.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::{book, own};

/// Runs `live` if this process is a life of `test`, which finds its directory in the variable `home`.
/// Returns whether it was one.
pub(crate) fn is_one<F: Future<Output = ()>>(home: &str, live: impl FnOnce(PathBuf) -> F) -> bool {
    let Some(home) = std::env::var_os(home) else {
        return false;
    };
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    runtime.block_on(live(PathBuf::from(home)));
    true
}

/// Begins one life after the other until the book says that all is done; returns the number of kills.
/// `killed_after`: when each life is killed, if it has not ended by then; the last one of `most` is
/// not to be.
pub(crate) fn run(
    test: &str,
    (variable, home): (&str, &Path),
    most: u64,
    mut killed_after: impl FnMut(u64) -> Option<Duration>,
) -> u64 {
    let mut kills = 0;
    for life in 0..most {
        let mut command = own(test);
        command.env(variable, home);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        if let Some(after) = killed_after(life) {
            // This is when the kill comes, at any point of what the life does.
            std::thread::sleep(after);
            child.kill().unwrap();
        }
        let status = child.wait().unwrap();
        let book = book::read(home);
        // (A signal gives no code.)
        let is_killed = status.code().is_none();
        kills += u64::from(is_killed);
        assert!(is_killed || status.success(), "{status}: {book:#?}");
        if book.iter().any(|line| line.starts_with("done")) {
            return kills;
        }
    }
    panic!("a life that was not killed did not come to its end");
}
