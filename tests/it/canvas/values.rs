//! Values of every size, through every form.

use super::*;

/// Around the sizes at which values are kept differently: inline, in a record, in several.
const SIZES: [usize; 9] = [
    0, 100, 1_000, 2_048, 7_000, 8_192, 20_000, 100_000, 1_000_000,
];

#[tokio::test]
async fn a_large_value_comes_back_whole() {
    let app = app().await;
    for size in SIZES {
        let result = app.apply_async(letters.s("x".into(), size)).await.unwrap();
        assert_eq!(result.get().await.unwrap(), "x".repeat(size));
        let found = app.async_result::<String>(result.id()).await.unwrap();
        assert_eq!(found.get().await.unwrap().len(), size);
    }
}

#[tokio::test]
async fn a_large_argument_arrives_whole() {
    for size in SIZES {
        assert_eq!(value(length.s("x".repeat(size))).await, size);
    }
}

#[tokio::test]
async fn a_large_value_passes_through_a_chain() {
    for size in SIZES {
        let canvas = letters.s("x".into(), size) | shout.partial() | length.partial();
        assert_eq!(value(canvas).await, size);
    }
}

#[tokio::test]
async fn large_values_are_members_of_a_group() {
    let members = || group(SIZES.map(|size| letters.s("x".into(), size)));
    let got = value(members()).await;
    assert_eq!(got.iter().map(String::len).collect::<Vec<_>>(), SIZES);
    assert_eq!(
        value(group([members(), members()])).await[1].len(),
        SIZES.len()
    );
}

#[tokio::test]
async fn large_values_pass_through_a_chord() {
    let members = group(SIZES.map(|size| letters.s("x".into(), size)));
    assert_eq!(value(members | lengths.partial()).await, SIZES);
}

#[tokio::test]
async fn a_large_value_from_upstream_reaches_every_member() {
    let canvas = letters.s("x".into(), 1_000_000) | group((0..8).map(|_| length.partial()));
    assert_eq!(value(canvas).await, [1_000_000; 8]);
}

#[tokio::test]
async fn a_large_value_reaches_a_callback() {
    let app = builder().tasks(tasks![note_length]).start().await.unwrap();
    let canvas = letters.s("x".into(), 1_000_000).link(note_length.partial());
    let result = app.apply_async(canvas).await.unwrap();
    let callback = &result.children::<()>().await.unwrap()[0];
    callback.get().await.unwrap();
    assert_eq!(notes("values: link"), ["1000000"]);
}

#[task]
async fn note_length(text: String) {
    note("values: link", text.len());
}

#[tokio::test]
async fn values_keep_their_types() {
    type Mixed = (
        Option<i64>,
        f64,
        char,
        Vec<u8>,
        (bool, String),
        Result<u8, String>,
    );
    #[task]
    async fn same(mixed: Mixed) -> Mixed {
        mixed
    }
    let app = builder().tasks(tasks![same]).start().await.unwrap();
    let mixed: Mixed = (
        None,
        f64::MIN_POSITIVE,
        'é',
        vec![0, 255],
        (true, "\u{0}x".into()),
        Err("no".into()),
    );
    let result = app
        .apply_async(same.s(mixed.clone()) | same.partial())
        .await
        .unwrap();
    assert_eq!(result.get().await.unwrap(), mixed);
}

#[tokio::test]
async fn a_long_failure_message_is_cut_and_says_so() {
    let failed = failure(fail.s("é".repeat(10_000))).await;
    assert!(failed.message.starts_with("éé"), "{}", failed.message);
    assert!(failed.message.ends_with("é… (20000 bytes in all)"));
}
