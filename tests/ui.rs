//! What does not compile, and what its author is told.

use std::process::Command;

/// The compiler whose words are recorded beside the cases. To record those of another one:
/// `TRYBUILD=overwrite cargo test --test ui`, then read every `.stderr`.
const RECORDED: &str = "rustc 1.95.";

#[test]
fn what_cannot_work_does_not_compile_and_says_why() {
    let rustc = Command::new("rustc").arg("--version").output().unwrap();
    let rustc = String::from_utf8(rustc.stdout).unwrap();
    if !rustc.starts_with(RECORDED) && std::env::var_os("TRYBUILD").is_none() {
        eprintln!("skipped: {rustc} words its errors otherwise than {RECORDED}x");
        return;
    }
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
