use chordal::prelude::*;

#[task]
async fn greet(name: String, times: u32) -> String {
    name.repeat(times as usize)
}

fn main() {
    let _: Signature<i64, String> = greet.partial(3);
    let _: Signature<(), String> = greet.partial(3);
}
