//! Celery's semantics: what a real Celery did with some canvases, and what a short reference says
//! of thousands of random ones.

mod build;
mod cases;
mod compare;
mod generator;
mod model;
mod quirks;

use cases::Case;

#[test]
fn the_model_agrees_with_every_recorded_case() {
    assert_modelled(&cases::recorded());
}

#[test]
fn the_model_gives_what_is_promised_where_celery_is_wrong() {
    assert_modelled(&quirks::promised());
}

fn assert_modelled(cases: &[Case]) {
    let wrong = cases.iter().filter_map(|case| {
        let outcome = model::outcome(&case.canvas, case.apply.as_ref());
        let why = compare::agree(&case.expect, &outcome).err()?;
        Some(format!("{}: {why}", case.id))
    });
    let wrong: Vec<_> = wrong.collect();
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}
