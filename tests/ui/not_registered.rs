use chordal::prelude::*;

#[task]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

fn double(x: i64) -> i64 {
    2 * x
}

struct NoTask;

fn main() {
    let _ = App::in_memory().tasks(tasks![add, NoTask]);
    let _ = App::in_memory().tasks(tasks![add, double]);
    let _ = double.s(1);
}
