//! Submitting: many at once, and once only.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_submit_at_once() {
    let app = app().await;
    let all: Vec<_> = (0..300i64)
        .map(|n| {
            let app = app.clone();
            tokio::spawn(async move {
                let header = group((0..5).map(move |i| add.s(n, i)));
                app.apply_async(header | xsum.partial()).await.unwrap()
            })
        })
        .collect();
    let mut ids = HashSet::new();
    for (n, one) in (0..).zip(all) {
        let result = one.await.unwrap();
        assert!(ids.insert(result.id()));
        assert_eq!(result.get().await.unwrap(), 5 * n + 10);
    }
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_key_that_was_used_gives_the_first_submission() {
    let (app, key) = (app().await, "submission: twice");
    let first = app
        .apply_async(mark.s(1, key.into()).idempotency_key("k"))
        .await
        .unwrap();
    assert_eq!(first.get().await.unwrap(), 1);
    let second = app
        .apply_async(mark.s(2, key.into()).idempotency_key("k"))
        .await
        .unwrap();
    assert_eq!(second.id(), first.id());
    assert_eq!(second.get().await.unwrap(), 1);
    let other = app
        .apply_async(mark.s(3, key.into()).idempotency_key("K"))
        .await
        .unwrap();
    assert_eq!(other.get().await.unwrap(), 3);
    app.shutdown().await.unwrap();
    assert_eq!(notes(key), ["1", "3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_key_that_is_used_by_many_at_once_gives_one_workflow() {
    let app = app().await;
    for round in 0..20 {
        let key = format!("submission: race {round}");
        let all: Vec<_> = (0..8i64)
            .map(|n| {
                let (app, key) = (app.clone(), key.clone());
                tokio::spawn(async move {
                    // Some of them are large: they are staged in several batches.
                    let header = group((0..1 + n * 100).map(move |_| add.s(n, 0)));
                    let canvas = header | mark.si(n, key.clone());
                    app.apply_async(canvas.idempotency_key(key)).await.unwrap()
                })
            })
            .collect();
        let mut ids = HashSet::new();
        let mut values = HashSet::new();
        for one in all {
            let result = one.await.unwrap();
            ids.insert(result.id());
            values.insert(result.get().await.unwrap());
        }
        assert_eq!((ids.len(), values.len(), notes(&key).len()), (1, 1, 1));
    }
}

#[tokio::test]
async fn a_key_goes_with_every_form() {
    let app = app().await;
    let canvases = || {
        [
            add.s(1, 1) | range.partial(),
            group([add.s(1, 1), add.s(2, 2)]),
            chord(group([add.s(1, 1)]), xsum.partial()) | range.partial(),
            add.s(0, 1) | group([add.partial(1)]),
        ]
    };
    for (i, (one, again)) in canvases().into_iter().zip(canvases()).enumerate() {
        let key = format!("form {i}");
        let one = app
            .apply_async(one.idempotency_key(key.clone()))
            .await
            .unwrap();
        let again = app.apply_async(again.idempotency_key(key)).await.unwrap();
        assert_eq!(one.id(), again.id());
        assert_eq!(one.get().await.unwrap(), again.get().await.unwrap());
    }
}

#[tokio::test]
async fn a_key_has_one_to_1024_bytes() {
    let app = app().await;
    for key in [String::new(), "k".repeat(1_025)] {
        let refused = app
            .apply_async(add.s(1, 1).idempotency_key(key))
            .await
            .unwrap_err();
        assert_eq!(
            refused.to_string(),
            "canvas refused: an idempotency key has 1 to 1024 bytes"
        );
    }
    let longest = app
        .apply_async(add.s(1, 1).idempotency_key("é".repeat(512)))
        .await
        .unwrap();
    assert_eq!(longest.get().await.unwrap(), 2);
}

#[tokio::test]
async fn a_handle_that_waits_is_told_of_the_shutdown() {
    let app = builder()
        .grace(std::time::Duration::ZERO)
        .start()
        .await
        .unwrap();
    let gate = "submission: never opened";
    let result = app.apply_async(held.s(1, gate.into())).await.unwrap();
    noted(gate, 1).await;
    let waiting = {
        let result = result.clone();
        tokio::spawn(async move { result.get().await })
    };
    app.shutdown().await.unwrap();
    assert!(matches!(waiting.await.unwrap(), Err(Error::ShutDown)));
    assert!(matches!(result.get().await, Err(Error::ShutDown)));
    let late = app.apply_async(add.s(1, 1)).await;
    assert!(matches!(late, Err(Error::ShutDown)), "{late:?}");
    app.shutdown().await.unwrap();
}
