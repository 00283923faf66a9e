use chordal::prelude::*;

#[task]
async fn to_list(#[rest] args: Vec<i64>) -> Vec<i64> {
    args
}

fn main() {
    // One element comes from upstream, not the list.
    let _ = to_list.s(vec![]) | to_list.partial(vec![]);
}
