//! What a program that is this test itself writes down outside its store, line by line, as it happens.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

/// Set once, before the app starts; tasks have no other way to be told.
static BOOK: OnceLock<File> = OnceLock::new();

pub(crate) fn open(home: &Path) {
    let mut options = OpenOptions::new();
    let file = options.create(true).append(true).open(home.join("book"));
    BOOK.set(file.unwrap()).unwrap();
}

/// One write, so that lines of several threads do not mix; and each as long as the others, so that
/// none lies in two pages: the end of the process can end a write between two.
pub(crate) fn note(line: fmt::Arguments<'_>) {
    let mut book = BOOK.get().expect("opened before anything runs");
    let line = format!("{line:<63}\n", line = line.to_string());
    assert_eq!(line.len(), 64, "{line}");
    book.write_all(line.as_bytes()).unwrap();
}

/// All lines, without their blanks; none if there is no such book yet.
pub(crate) fn read(home: &Path) -> Vec<String> {
    let text = fs::read_to_string(home.join("book")).unwrap_or_default();
    text.lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}
