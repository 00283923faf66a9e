//! What does not compile, and what its author is told.

#[test]
fn what_cannot_work_does_not_compile_and_says_why() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
