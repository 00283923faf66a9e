use std::rc::Rc;

use chordal::prelude::*;

struct Pool;

/// Hides the name by which the attribute recognizes the type.
type State<T> = Data<T>;

#[task]
async fn under_another_name(pool: State<Pool>) {
    let _ = pool;
}

#[task]
async fn not_shared(pool: Data<Rc<Pool>>) {
    let _ = pool;
}

mod own {
    use chordal::task;

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Data<T>(T);

    #[task]
    async fn of_this_program(data: Data<u64>) -> u64 {
        data.0
    }
}

fn main() {
    let _ = App::in_memory().data(Rc::new(Pool));
}
