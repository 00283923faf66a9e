//! Celery's semantics: what a real Celery did with some canvases, and what a short reference says
//! of thousands of random ones.

mod build;
mod cases;
mod compare;
mod eager;
mod engine;
mod generator;
mod model;
mod program;
mod quirks;

#[path = "../../src/split_mix.rs"]
mod split_mix;

// One vocabulary: the example's tasks, and its own unit tests, which cargo runs only here.
#[path = "../../examples/celery_canvas/python.rs"]
mod python;
#[allow(dead_code, reason = "only the example meets refused canvases")]
#[path = "../../examples/celery_canvas/report.rs"]
mod report;
#[path = "../../examples/celery_canvas/tasks.rs"]
mod tasks;

use cases::Case;
use generator::Generated;

#[test]
fn the_model_agrees_with_every_recorded_case() {
    assert_modelled(&cases::recorded());
}

#[test]
fn the_model_gives_what_is_promised_where_celery_is_wrong() {
    assert_modelled(&quirks::promised());
}

#[test]
fn no_outcome_in_the_model_depends_on_how_a_canvas_is_spelt() {
    let canvases = (0..1_000).map(|seed| (seed, generator::generate(seed)));
    for (seed, Generated { canvas, apply }) in canvases {
        // An errback of a chain hears of a step that expired, one of the step itself does not.
        if canvas.to_string().contains("expires") {
            continue;
        }
        let respelt = build::respelt(&canvas);
        let expected = model::outcome(&canvas, apply.as_ref());
        let outcome = model::outcome(&respelt, apply.as_ref());
        let agreed = compare::agree(&expected, &outcome);
        assert_eq!(agreed, Ok(()), "seed {seed}:\n{canvas}\n{respelt}");
    }
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
